//! A network between host and broker that can be bad: a TCP proxy on loopback, with two threads per connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Small, so that throttled bytes come evenly.
const PIECE: usize = 8 << 10;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToBroker,
    ToHost,
}

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All connections break, once.
    Cut,
    /// All connections break, and new ones are closed at once while it lasts.
    Refuse,
    /// Each piece of one direction waits so many milliseconds.
    Delay(Way, u64),
    /// One direction carries so many KiB per second.
    Throttle(Way, u64),
    /// The connections of now are half-open: what goes one way disappears, until somebody closes them.
    Silence(Way),
}

/// The proxy; it ends with its value.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    broker: SocketAddr,
    fault: Mutex<Option<Fault>>,
    lines: Mutex<Vec<Arc<Line>>>,
    stop: AtomicBool,
}

/// One connection through the proxy.
struct Line {
    host: TcpStream,
    broker: TcpStream,
    /// Set once: a stream of bytes that has a hole can never go on.
    silent: Mutex<Option<Way>>,
    closed: AtomicBool,
}

impl Proxy {
    /// In front of the broker at `nats://…`.
    pub(crate) fn start(broker: &str) -> Proxy {
        let broker = broker.trim_start_matches("nats://").parse().expect("an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared =
            Arc::new(Shared { broker, fault: Mutex::default(), lines: Mutex::default(), stop: AtomicBool::new(false) });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Proxy { address, shared, acceptor: Some(acceptor) }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn begin(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = Some(fault);
        match fault {
            Fault::Cut | Fault::Refuse => self.shared.cut(),
            Fault::Silence(way) => {
                for line in &*self.shared.lines.lock().unwrap() {
                    *line.silent.lock().unwrap() = Some(way);
                }
            }
            Fault::Delay(..) | Fault::Throttle(..) => {}
        }
    }

    /// The network is well again; connections that are half-open stay so.
    pub(crate) fn end(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// Whether no connection is half-open: all that were have been given up.
    pub(crate) fn all_heard(&self) -> bool {
        let mut lines = self.shared.lines.lock().unwrap();
        lines.retain(|line| !line.closed.load(Ordering::SeqCst));
        lines.iter().all(|line| line.silent.lock().unwrap().is_none())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The acceptor waits for a connection: this one ends it.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        self.shared.cut();
    }
}

impl Shared {
    fn cut(&self) {
        self.lines.lock().unwrap().drain(..).for_each(|line| line.close());
    }
}

impl Line {
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // Either side may be closed already.
        drop(self.host.shutdown(Shutdown::Both));
        drop(self.broker.shutdown(Shutdown::Both));
    }

    /// Carries bytes one way until either side closes.
    fn carry(&self, way: Way, shared: &Shared) {
        let (mut from, mut to) = match way {
            Way::ToBroker => (&self.host, &self.broker),
            Way::ToHost => (&self.broker, &self.host),
        };
        let mut piece = [0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            // Not matched in place: the lock would be held while this thread sleeps.
            let fault = *shared.fault.lock().unwrap();
            match fault {
                Some(Fault::Delay(slow, millis)) if slow == way => std::thread::sleep(Duration::from_millis(millis)),
                Some(Fault::Throttle(slow, rate)) if slow == way => {
                    std::thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / (rate << 10)));
                }
                _ => {}
            }
            let is_silent = *self.silent.lock().unwrap() == Some(way);
            if !is_silent && to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        self.close();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for host in listener.incoming().map_while(Result::ok) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if *shared.fault.lock().unwrap() == Some(Fault::Refuse) {
            continue;
        }
        let Ok(broker) = TcpStream::connect(shared.broker) else { continue };
        for stream in [&host, &broker] {
            // For speed only; the host may be gone already.
            drop(stream.set_nodelay(true));
        }
        let line = Arc::new(Line { host, broker, silent: Mutex::default(), closed: AtomicBool::new(false) });
        shared.lines.lock().unwrap().push(line.clone());
        for way in [Way::ToBroker, Way::ToHost] {
            let (line, shared) = (line.clone(), shared.clone());
            std::thread::spawn(move || line.carry(way, &shared));
        }
    }
}
