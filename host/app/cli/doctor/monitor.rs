//! What the monitoring port of the broker says. Whoever opened the port first answers there, so an answer has a bound and a
//! deadline.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Finding;
use crate::terminal::without_credentials;

/// How long a whole question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;

/// Without `sync_interval: always`, a power failure takes back what was acknowledged.
pub(super) fn sync_interval(monitor: &str) -> Finding {
    const CHECK: &str = "sync interval";
    const REMEDY: &str = "set `jetstream { sync_interval: always }`: else a power failure takes back stored epochs";
    let Some(vars) = get_json(monitor, "/varz") else {
        let found = format!("unknown: {} does not answer as a broker's would", without_credentials(monitor));
        return Finding::note(CHECK, found, "start nats-server with `-m 8222`, or name the port with --monitor");
    };
    let config = &vars["jetstream"]["config"];
    match (config["sync_always"].as_bool(), config["sync_interval"].as_i64()) {
        (Some(true), _) => Finding::ok(CHECK, "always"),
        (_, Some(nanos)) => Finding::note(CHECK, format!("{} s", nanos / 1_000_000_000), REMEDY),
        _ => Finding::note(CHECK, "not in the answer of the monitoring port", REMEDY),
    }
}

/// Room that the server has for all accounts together; an account without a limit of its own does not tell.
pub(super) fn broker_storage(monitor: &str) -> Option<Finding> {
    const CHECK: &str = "broker disk";
    let jsz = get_json(monitor, "/jsz")?;
    storage_finding(CHECK, jsz["storage"].as_u64()?, jsz["config"]["max_storage"].as_u64()?)
}

/// `None` without a limit.
fn storage_finding(check: &'static str, used: u64, limit: u64) -> Option<Finding> {
    const REMEDY: &str = "when it is full, pipelines pause: raise `max_file_store`, or delete what nobody needs";
    if limit == 0 {
        return None;
    }
    let found = format!("{} of {} MiB used", used >> 20, limit >> 20);
    Some(match used.saturating_mul(100) / limit {
        0..90 => Finding::ok(check, found),
        90..99 => Finding::note(check, found, REMEDY),
        _ => Finding::fail(check, found, REMEDY),
    })
}

/// One plain HTTP request. A client library would be a large dependency for a single question.
fn get_json(base: &str, path: &str) -> Option<Value> {
    let host = base.strip_prefix("http://")?.trim_end_matches('/');
    let address = host.to_socket_addrs().ok()?.next()?;
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?).ok()?;
    stream.set_write_timeout(Some(left(deadline)?)).ok()?;
    // In one piece: who answers the first piece and hangs up resets the connection when another one comes.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let answer = read_to_end(&mut stream, deadline)?;
    let body = memchr::memmem::find(&answer, b"\r\n\r\n")? + 4;
    serde_json::from_slice(&answer[body..]).ok()
}

/// `None` when there is more than an answer may have, or it takes longer.
fn read_to_end(stream: &mut TcpStream, deadline: Instant) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left(deadline)?)).ok()?;
        match stream.read(&mut part) {
            Ok(0) => return Some(answer),
            Ok(count) if answer.len() + count <= ANSWER_MAX => answer.extend_from_slice(&part[..count]),
            Ok(_) => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// What is left until then, if anything is.
fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::Grade;
    use super::*;

    #[test]
    fn a_full_broker_is_told() {
        let grade = |used, limit| storage_finding("x", used, limit).map(|finding| finding.grade);
        assert_eq!(grade(5, 0), None);
        assert_eq!(grade(89, 100), Some(Grade::Ok));
        assert_eq!(grade(95, 100), Some(Grade::Note));
        assert_eq!(grade(100, 100), Some(Grade::Fail));
    }

    /// Asks somebody who answers once so, and how many of the bytes that were ready went out.
    fn asked(answer: &'static [u8], pause: Duration, times: usize) -> (Option<Value>, Duration, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let other = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            let sent = (0..times).take_while(|_| {
                std::thread::sleep(pause);
                stream.write_all(answer).is_ok()
            });
            sent.count() * answer.len()
        });
        let start = Instant::now();
        let found = get_json(&base, "/varz");
        (found, start.elapsed(), other.join().unwrap())
    }

    #[test]
    fn an_answer_has_a_bound_and_a_deadline() {
        let (found, _, _) = asked(b"{\"a\":1}", Duration::ZERO, 1);
        assert_eq!(found.unwrap()["a"], 1);
        let (found, _, sent) = asked(&[b'['; 1 << 20], Duration::ZERO, 200);
        assert_eq!(found, None);
        // What the system keeps on the way counts, too.
        assert!(sent < 100 << 20, "{sent} bytes were taken");
        let (found, took, _) = asked(b"[", Duration::from_millis(200), 30);
        assert_eq!(found, None);
        assert!(took < PATIENCE * 2, "{took:?}");
    }
}
