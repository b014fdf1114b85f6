//! A real nats-server for tests: own port, own folder, killed and started again at will. [`foreign`] is for `tests/fuzz`.

pub mod foreign;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::connect::Broker;
use crate::error::BrokerError;
use crate::options::ConnectOptions;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const PORT_ATTEMPTS: u32 = 5;
const BINARY_VARIABLE: &str = "PELTON_NATS_SERVER";

/// A folder that goes away with its value.
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes a fresh folder.
    ///
    /// # Errors
    /// When the system's temporary folder is not writable.
    pub fn new() -> std::io::Result<TempDir> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
        let path = std::env::temp_dir().join(format!("pelton-broker-{}-{count}-{nanos}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(TempDir { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A running nats-server with JetStream, every write synced. Stops, and its folder goes, with this value.
pub struct Server {
    binary: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Panics
    /// When there is no nats-server of 2.12 or newer, or it does not start.
    #[must_use]
    pub fn start() -> Server {
        Server::start_with("")
    }

    /// Starts a server with more lines of configuration, such as `max_payload: 8MB`.
    ///
    /// # Panics
    /// As [`Server::start`].
    #[must_use]
    pub fn start_with(config: &str) -> Server {
        Server::launch_new("sync_interval: always", config)
    }

    /// Starts servers that are one cluster; each is killed and started again by itself.
    ///
    /// They find each other later than they answer: ask until a request to JetStream is answered.
    ///
    /// # Panics
    /// As [`Server::start`].
    #[must_use]
    pub fn start_cluster(count: usize) -> Vec<Server> {
        // All are bound before one is given up, so no port comes twice.
        let listeners: Vec<TcpListener> = (0..count).map(|_| bind_free()).collect();
        let routes: Vec<String> = listeners.iter().map(|listener| format!("127.0.0.1:{}", port(listener))).collect();
        drop(listeners);
        let all: Vec<String> = routes.iter().map(|route| format!("\"nats://{route}\"")).collect();
        let start = |(idx, route)| {
            Server::start_with(&format!(
                "server_name: node-{idx}\ncluster {{ name: test, listen: \"{route}\", routes: [{}] }}",
                all.join(", ")
            ))
        };
        routes.iter().enumerate().map(start).collect()
    }

    /// Starts a hub and a leaf node of it, each with a JetStream domain of its own: `hub` and `leaf`.
    ///
    /// They find each other later than they answer: ask until a request to the other domain is answered.
    ///
    /// # Panics
    /// As [`Server::start`].
    #[must_use]
    pub fn start_leaf() -> (Server, Server) {
        let listener = bind_free();
        let leaf_port = port(&listener);
        drop(listener);
        let hub = format!("server_name: hub\nleafnodes {{ listen: \"127.0.0.1:{leaf_port}\" }}");
        let leaf =
            format!("server_name: leaf\nleafnodes {{ remotes: [ {{ url: \"nats://127.0.0.1:{leaf_port}\" }} ] }}");
        let hub = Server::launch_new("sync_interval: always\ndomain: hub", &hub);
        let leaf = Server::launch_new("sync_interval: always\ndomain: leaf", &leaf);
        (hub, leaf)
    }

    /// Starts a server that leaves syncing to the system: for tests and measurements that need many events.
    ///
    /// # Panics
    /// As [`Server::start`].
    #[must_use]
    pub fn start_unsynced() -> Server {
        Server::launch_new("", "")
    }

    fn launch_new(jetstream: &str, config: &str) -> Server {
        let binary = find_binary().expect("a nats-server in PELTON_NATS_SERVER, .tools/bin or PATH");
        check_version(&binary);
        let folder = TempDir::new().expect("a temporary folder");
        let mut server = Server { binary, folder, port: 0, child: None };
        for attempt in 1..=PORT_ATTEMPTS {
            server.port = free_port();
            server.write_config(jetstream, config);
            match server.launch() {
                Ok(()) => return server,
                Err(reason) if attempt == PORT_ATTEMPTS => panic!("nats-server does not start: {reason}"),
                // Most likely another process took the port.
                Err(_) => {}
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// `nats://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The folder of its streams.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Connects to it.
    ///
    /// # Errors
    /// As [`Broker::connect`].
    pub async fn connect(&self) -> Result<Broker, BrokerError> {
        Broker::connect(&ConnectOptions { servers: vec![self.url()], ..ConnectOptions::default() }).await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `kill -STOP`: it holds its connections and answers nothing until it is killed.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        let child = self.child.as_ref().expect("the server runs");
        let status = Command::new("kill").args(["-STOP", &child.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "the server is stopped");
    }

    /// Starts it again on the same port and folder.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(reason) = self.launch() {
            panic!("nats-server does not start again: {reason}");
        }
    }

    fn write_config(&self, jetstream: &str, more: &str) {
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\"\n{jetstream} }}\n{more}\n",
            self.port,
            self.store().display()
        );
        std::fs::write(self.config(), text).expect("the configuration is writable");
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("server.conf")
    }

    fn launch(&mut self) -> Result<(), String> {
        let log = self.folder.path().join("server.log");
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.config())
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("it ended with {status}: {text}"));
            }
            if greets(self.port) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("it does not greet within {} s", START_TIMEOUT.as_secs()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Clients are let in only after JetStream is up.
fn greets(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.contains("\"jetstream\":true")
}

fn free_port() -> u16 {
    port(&bind_free())
}

fn bind_free() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a free port")
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("a bound socket has an address").port()
}

fn find_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Some(PathBuf::from(path));
    }
    let here = std::env::current_dir().ok()?;
    let local = here.ancestors().map(|folder| folder.join(".tools/bin/nats-server")).find(|path| path.is_file());
    local.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|path| path.is_file())
    })
}

fn check_version(binary: &Path) {
    let output = Command::new(binary).arg("--version").output().expect("nats-server runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_string();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    assert!(found >= crate::VERSION_MIN, "tests need nats-server 2.12 or newer, {} is {text:?}", binary.display());
}
