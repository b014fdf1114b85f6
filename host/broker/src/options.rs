//! How to connect: servers, credentials, TLS; everything that is a file is read here, before anything is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pelton_files::Links;

use crate::connect::{API_TIMEOUT, BrokerError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(5);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
/// Most bytes of a file with credentials, a key or certificates: a bundle of all authorities has a quarter of it.
const FILE_BYTES_MAX: usize = 1 << 20;
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// Where the servers are and who we are. Empty `servers` means `nats://127.0.0.1:4222`.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    pub servers: Vec<String>,
    /// Credentials file (JWT and seed).
    pub creds: Option<PathBuf>,
    /// Seed of an nkey, or a file that holds one.
    pub nkey: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub tls: Tls,
    /// JetStream domain.
    pub domain: Option<String>,
    /// First token or tokens of the subjects that answers come on; `_INBOX` without it.
    pub inbox_prefix: Option<String>,
    /// Name of this connection, shown by the server.
    pub name: Option<String>,
}

/// Files of a TLS connection; any of them makes TLS required.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Options of the client library, without its event callback.
pub(crate) async fn client_options(options: &ConnectOptions) -> Result<async_nats::ConnectOptions, BrokerError> {
    let mut client = async_nats::ConnectOptions::new()
        .name(options.name.as_deref().unwrap_or("pelton"))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(API_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    if let Some(prefix) = &options.inbox_prefix {
        client = client.custom_inbox_prefix(check_prefix(prefix)?);
    }
    if let Some(path) = &options.creds {
        let fail = |cause: String| BrokerError::Options(format!("credentials {}: {cause}", path.display()));
        let text = read_text(path).map_err(fail)?;
        client = client.credentials(&text).map_err(|error| fail(error.to_string()))?;
    }
    if let Some(nkey) = &options.nkey {
        client = client.nkey(read_seed(nkey)?);
    }
    match (&options.user, &options.password) {
        (Some(user), password) => {
            client = client.user_and_password(user.clone(), password.clone().unwrap_or_default());
        }
        (None, Some(_)) => return Err(BrokerError::Options("a password needs a user".to_string())),
        (None, None) => {}
    }
    if let Some(token) = &options.token {
        client = client.token(token.clone());
    }
    add_tls(client, &options.tls)
}

fn add_tls(mut client: async_nats::ConnectOptions, tls: &Tls) -> Result<async_nats::ConnectOptions, BrokerError> {
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            check_pem("client certificate", cert, "CERTIFICATE")?;
            check_pem("key of the client certificate", key, "PRIVATE KEY")?;
            client = client.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        (None, None) => {}
        _ => return Err(BrokerError::Options("a client certificate needs both cert and key".to_string())),
    }
    if let Some(ca) = &tls.ca {
        check_pem("certificate authority", ca, "CERTIFICATE")?;
        client = client.add_root_certificates(ca.clone()).require_tls(true);
    }
    Ok(client)
}

/// The client opens the files late and does not name them; so they are looked at first.
fn check_pem(what: &str, path: &Path, kind: &str) -> Result<(), BrokerError> {
    let fail = |cause: String| BrokerError::Options(format!("{what} {}: {cause}", path.display()));
    let text = read_text(path).map_err(fail)?;
    let is_begin = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"));
    if text.lines().any(is_begin) { Ok(()) } else { Err(fail(format!("holds no PEM block `{kind}`"))) }
}

/// The text of a file; the error is its cause.
fn read_text(path: &Path) -> Result<String, String> {
    let bytes = pelton_files::read(path, FILE_BYTES_MAX, Links::Follow).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Answers come on `PREFIX.…`: it has to be the beginning of a literal subject.
fn check_prefix(prefix: &str) -> Result<&str, BrokerError> {
    let is_token = |token: &str| {
        !token.is_empty() && !token.contains(['*', '>']) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if prefix.split('.').all(is_token) {
        return Ok(prefix);
    }
    Err(BrokerError::Options(format!("inbox prefix {prefix:?}: not a subject such as `_INBOX_app`")))
}

/// A seed starts with `S`; anything that names a file is read. What is neither is not quoted: it may be a secret.
fn read_seed(nkey: &str) -> Result<String, BrokerError> {
    if nkey.starts_with('S') && !nkey.contains(['/', '.']) {
        return Ok(nkey.to_string());
    }
    let text = read_text(Path::new(nkey)).map_err(|error| {
        BrokerError::Options(format!("the nkey is neither a seed nor a file that can be read: {error}"))
    })?;
    text.lines()
        .map(str::trim)
        .find(|line| line.starts_with('S'))
        .map(str::to_string)
        .ok_or_else(|| BrokerError::Options(format!("nkey {nkey}: no line holds a seed")))
}

/// Doubles from 100 ms to 5 s, each with up to half of it left off at random.
pub(crate) fn reconnect_delay(attempt: usize) -> Duration {
    let doubled = RECONNECT_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(10));
    let full = doubled.min(RECONNECT_MAX);
    // Jitter needs no quality: the keys of a fresh hasher are random enough.
    let random = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt);
    let half = full / 2;
    RECONNECT_MIN.max(half + half.mul_f64((random % 1000) as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delays_stay_in_bounds() {
        for attempt in 0..64 {
            let delay = reconnect_delay(attempt);
            assert!((RECONNECT_MIN..=RECONNECT_MAX).contains(&delay), "{attempt}: {delay:?}");
        }
    }

    #[test]
    fn inbox_prefixes_are_literal_subjects() {
        for good in ["_INBOX_b", "a.b", "_INBOX"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for bad in ["", "a.", "a b", "a.*", ">", "_INBOX_b.>"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn tls_files_are_named_before_anything_is_opened() {
        let folder = crate::testing::TempDir::new().expect("temp folder");
        let missing = folder.path().join("missing.pem");
        let wrong = folder.path().join("wrong.pem");
        std::fs::write(&wrong, "-----BEGIN PRIVATE KEY-----\n").expect("written");
        let right = folder.path().join("right.pem");
        std::fs::write(&right, "text\n-----BEGIN CERTIFICATE-----\r\n").expect("written");
        let error = async |tls: Tls| {
            client_options(&ConnectOptions { tls, ..ConnectOptions::default() }).await.err().map(|e| e.to_string())
        };
        let ca = |path: &Path| Tls { ca: Some(path.to_path_buf()), ..Tls::default() };
        let text = error(ca(&missing)).await.expect("not there");
        assert!(text.contains("certificate authority") && text.contains("missing.pem"), "{text}");
        let text = error(ca(&wrong)).await.expect("no certificate");
        assert!(text.contains("wrong.pem") && text.contains("CERTIFICATE"), "{text}");
        assert_eq!(error(ca(&right)).await, None);
        let pair = Tls { cert: Some(right.clone()), key: Some(missing.clone()), ca: None };
        let text = error(pair).await.expect("not there");
        assert!(text.contains("key of the client certificate") && text.contains("missing.pem"), "{text}");
        assert_eq!(error(Tls { cert: Some(right), key: Some(wrong), ca: None }).await, None);
    }

    #[test]
    fn a_seed_that_is_slightly_wrong_is_not_printed() {
        let secret = "\"SUAM5XGGRB4U7AKGX2WQXK4Q7LMK7C2KZ5UWQ2XKPQ2TIZQ\"";
        let text = read_seed(secret).expect_err("neither seed nor file").to_string();
        assert!(!text.contains("SUAM5"), "{text}");
    }
}
