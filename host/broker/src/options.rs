//! How to connect: servers, credentials, TLS; everything that is a file is read here, before anything is opened.
//!
//! No message quotes what is or may be a secret: not a seed that is slightly wrong, nor a secret in place of a file's name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pelton_files::{Links, ReadError};

use crate::address::{Login, take_apart};
use crate::error::{API_TIMEOUT, BrokerError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(5);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// Most bytes of a file with credentials, certificates or a context: a bundle of all authorities has a quarter of it.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Characters of an nkey seed.
const SEED_LEN: usize = 58;

/// Where the servers are and who we are. Empty `servers` means `nats://127.0.0.1:4222`.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// Addresses; credentials in them are used, and win over those below. See [`ConnectOptions::take_credentials`].
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

impl ConnectOptions {
    /// The same with the credentials of the addresses as `user`, `password` and `token`, and the addresses without them.
    ///
    /// As in the NATS tools, credentials of an address replace a user, password, token and nkey that were given apart.
    ///
    /// # Errors
    /// When an address cannot be used, or two have different credentials.
    pub fn take_credentials(mut self) -> Result<ConnectOptions, BrokerError> {
        let (servers, login) = take_apart(&self.servers)?;
        self.servers = servers;
        if let Some(login) = login {
            (self.user, self.password, self.token) = match login {
                Login::Password { user, password } => (Some(user), Some(password), None),
                Login::Token(token) => (None, None, Some(token)),
            };
            self.nkey = None;
        }
        Ok(self)
    }
}

/// Which credentials there are, not what they are; an address may hold some, too.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hide = |secret: &Option<String>| secret.as_ref().map(|_| "hidden");
        let servers: Vec<&str> =
            self.servers.iter().map(|url| if url.contains(['@', '?']) { "hidden" } else { url }).collect();
        f.debug_struct("ConnectOptions")
            .field("servers", &servers)
            .field("creds", &self.creds.as_ref().map(|_| "hidden"))
            .field("nkey", &hide(&self.nkey))
            .field("user", &hide(&self.user))
            .field("password", &hide(&self.password))
            .field("token", &hide(&self.token))
            .field("domain", &self.domain)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Options of the client library, without its event callback.
pub(crate) fn client_options(options: &ConnectOptions) -> Result<async_nats::ConnectOptions, BrokerError> {
    let mut client = async_nats::ConnectOptions::new()
        .name(options.name.as_deref().unwrap_or("pelton"))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(API_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    if let Some(prefix) = &options.inbox_prefix {
        check_literal("inbox prefix", prefix, "_INBOX_app")?;
        client = client.custom_inbox_prefix(prefix);
    }
    if let Some(domain) = &options.domain {
        check_literal("domain", domain, "hub")?;
    }
    if let Some(path) = &options.creds {
        let fail = |cause: String| BrokerError::Options(format!("credentials file{}: {cause}", shown(path)));
        let text = read_text(path).map_err(|error| fail(error.to_string()))?;
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
    let fail = |cause: String| BrokerError::Options(format!("{what}{}: {cause}", shown(path)));
    let text = read_text(path).map_err(|error| fail(error.to_string()))?;
    let is_begin = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"));
    if text.lines().any(is_begin) { Ok(()) } else { Err(fail(format!("holds no PEM block `{kind}`"))) }
}

/// Answers come on `PREFIX.…`, requests go to `$JS.DOMAIN.…`: both have to be parts of a literal subject.
fn check_literal(what: &str, text: &str, example: &str) -> Result<(), BrokerError> {
    let is_token = |token: &str| {
        !token.is_empty() && !token.contains(['*', '>']) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if text.split('.').all(is_token) {
        return Ok(());
    }
    Err(BrokerError::Options(format!("{what} {text:?}: not a subject such as `{example}`")))
}

/// A seed itself, or the first one in a file. What is neither is not quoted: most likely it is a secret.
fn read_seed(nkey: &str) -> Result<String, BrokerError> {
    let nkey = nkey.trim();
    if is_seed(nkey) {
        return Ok(nkey.to_string());
    }
    let text = read_text(Path::new(nkey)).map_err(|error| {
        BrokerError::Options(format!("the nkey (--nkey, NATS_NKEY) is neither a seed nor a file: {}", error.kind()))
    })?;
    let seed = text.lines().map(str::trim).find(|line| is_seed(line));
    let none =
        "the nkey (--nkey, NATS_NKEY) is a file without a seed: no line is 58 capital letters and digits, the first S";
    seed.map(str::to_string).ok_or_else(|| BrokerError::Options(none.to_string()))
}

/// Whether this has the form of an nkey seed: base 32, the first letter `S`.
fn is_seed(text: &str) -> bool {
    text.len() == SEED_LEN && text.starts_with('S') && text.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
}

/// The text of a small regular file; errors do not name it.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = pelton_files::read(path, FILE_BYTES_MAX, Links::Follow).map_err(|error| match error {
        ReadError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    })?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not text"))
}

/// ` PATH`, or nothing when it looks like what should be in the file: a variable may hold the one for the other.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_secret = |word: &str| word.len() >= SEED_LEN - 8 && !word.contains(['-', '_']) || word.starts_with("eyJ");
    let is_content = text.contains(['\n', '\r']) || text.contains("-----");
    if is_content || text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').any(is_secret) {
        return " (its name is not shown, for it looks like a secret)".to_string();
    }
    format!(" {}", path.display())
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
            assert!(check_literal("inbox prefix", good, "_INBOX").is_ok(), "{good}");
        }
        for bad in ["", "a.", "a b", "a.*", ">", "_INBOX_b.>"] {
            assert!(check_literal("inbox prefix", bad, "_INBOX").is_err(), "{bad}");
        }
    }

    #[test]
    fn tls_files_are_named_before_anything_is_opened() {
        let folder = crate::testing::TempDir::new().expect("temp folder");
        let missing = folder.path().join("missing.pem");
        let wrong = folder.path().join("wrong.pem");
        std::fs::write(&wrong, "-----BEGIN PRIVATE KEY-----\n").expect("written");
        let right = folder.path().join("right.pem");
        std::fs::write(&right, "text\n-----BEGIN CERTIFICATE-----\r\n").expect("written");
        let error = |tls: Tls| {
            client_options(&ConnectOptions { tls, ..ConnectOptions::default() }).err().map(|e| e.to_string())
        };
        let ca = |path: &Path| Tls { ca: Some(path.to_path_buf()), ..Tls::default() };
        let text = error(ca(&missing)).expect("not there");
        assert!(text.contains("certificate authority") && text.contains("missing.pem"), "{text}");
        let text = error(ca(&wrong)).expect("no certificate");
        assert!(text.contains("wrong.pem") && text.contains("CERTIFICATE"), "{text}");
        assert_eq!(error(ca(&right)), None);
        let pair = Tls { cert: Some(right.clone()), key: Some(missing.clone()), ca: None };
        let text = error(pair).expect("not there");
        assert!(text.contains("key of the client certificate") && text.contains("missing.pem"), "{text}");
        assert_eq!(error(Tls { cert: Some(right), key: Some(wrong), ca: None }), None);
    }

    const SEED: &str = "SUAOL2ZSWRL4PTWVVU5NW4T4MLQH4DQZ6PZMH4ZC3OXYB4PMEFHZZ6IISM";

    #[test]
    fn a_seed_that_is_slightly_wrong_is_not_printed() {
        let folder = crate::testing::TempDir::new().expect("temp folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.to_string_lossy().into_owned()
        };
        for good in [SEED.to_string(), format!(" {SEED}\n"), file("seed", &format!("# of the host\n {SEED} \n"))] {
            assert_eq!(read_seed(&good).expect("a seed"), SEED);
        }
        for wrong in [
            SEED.to_lowercase(),
            format!("\"{SEED}\""),
            format!("{SEED}."),
            format!("./{SEED}"),
            SEED[..55].to_string(),
            format!("{SEED}\n{SEED}"),
            SEED.replace('2', "\0"),
            file("none", &SEED.to_lowercase()),
            folder.path().to_string_lossy().into_owned(),
            String::new(),
        ] {
            let text = read_seed(&wrong).expect_err("neither seed nor file").to_string();
            assert!(text.contains("the nkey (--nkey, NATS_NKEY)"), "{text}");
            assert!(!text.to_uppercase().contains(&SEED[..20]), "{text}");
        }
        assert!(read_text(Path::new("/dev/zero")).is_err(), "no file is read without end");
    }

    #[test]
    fn a_secret_in_place_of_a_file_is_not_printed() {
        let jwt = "eyJ0eXAiOiJqd3QiLCJhbGciOiJlZDI1NTE5In0.S3CRET";
        let creds = format!("-----BEGIN NATS USER JWT-----\nS3CRET\n------END\n{SEED}");
        for secret in [SEED, jwt, &creds, "-----BEGIN PRIVATE KEY----- S3CRET"] {
            let path = PathBuf::from(secret);
            let tls = Tls { cert: Some(path.clone()), key: Some(path.clone()), ca: None };
            for options in [
                ConnectOptions { creds: Some(path.clone()), ..ConnectOptions::default() },
                ConnectOptions { tls, ..ConnectOptions::default() },
                ConnectOptions { tls: Tls { ca: Some(path.clone()), ..Tls::default() }, ..ConnectOptions::default() },
            ] {
                let text = client_options(&options).expect_err("no file").to_string();
                assert!(!text.contains("S3CRET") && !text.contains(&SEED[..20]), "{text}");
            }
        }
        let options = ConnectOptions { creds: Some(PathBuf::from("/no/such-file.creds")), ..ConnectOptions::default() };
        let text = client_options(&options).expect_err("no file").to_string();
        assert!(text.contains("/no/such-file.creds"), "{text}");
    }

    #[test]
    fn credentials_of_an_address_win_and_are_hidden() {
        let given = |url: &str| ConnectOptions {
            servers: vec![url.to_string()],
            user: Some("other".to_string()),
            password: Some("S3CRET".to_string()),
            nkey: Some(SEED.to_string()),
            ..ConnectOptions::default()
        };
        let options = given("nats://u:S3CRET%40@h:1").take_credentials().expect("an address");
        assert_eq!((options.user.as_deref(), options.password.as_deref()), (Some("u"), Some("S3CRET@")));
        assert_eq!((options.servers, options.nkey, options.token), (vec!["nats://h:1".to_string()], None, None));
        let options = given("S3CRET@h").take_credentials().expect("an address");
        assert_eq!((options.user, options.password, options.token.as_deref()), (None, None, Some("S3CRET")));
        let options = given("h").take_credentials().expect("an address");
        assert_eq!((options.user.as_deref(), options.nkey.as_deref()), (Some("other"), Some(SEED)));
        for options in [given("nats://u:S3CRET@h:1"), given("h").take_credentials().expect("an address")] {
            let text = format!("{options:?}");
            assert!(!text.contains("S3CRET") && !text.contains(SEED), "{text}");
        }
    }
}
