//! Addresses of servers and saved contexts, with secrets in them: no message shows one, and what is accepted comes back
//! without.

use pelton_broker::ConnectOptions;
use pelton_broker::testing::foreign;

use crate::bytes::Bytes;

/// In every secret, written in one way or the other.
const MARK: &str = "S3CRET";
const MARK_ENCODED: &str = "%533CRET";
/// What both have in common, and nothing else does.
const LEAK: &str = "3CRET";
/// More servers show nothing new.
const SERVERS_MAX: usize = 6;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'c' => context(&script.rest()),
        b'n' => nkey(&mut script),
        b't' => text(&script.rest()),
        _ => list(&mut script),
    }
}

/// Takes the credentials out, and checks what can be said of any text.
fn take(servers: &[String]) -> Result<ConnectOptions, String> {
    let all = ConnectOptions { servers: servers.to_vec(), ..ConnectOptions::default() };
    assert!(!servers.concat().contains('@') || !format!("{all:?}").contains(LEAK), "{all:?}");
    let taken = all.take_credentials().map_err(|error| error.to_string());
    match &taken {
        Ok(options) => check_accepted(options),
        Err(error) => assert!(error.starts_with("server address ") && !error.contains(char::is_control), "{error:?}"),
    }
    taken
}

fn check_accepted(options: &ConnectOptions) {
    for server in &options.servers {
        let (scheme, place) = server.split_once("://").unwrap_or_else(|| panic!("{server} has no scheme"));
        assert!(!scheme.is_empty() && !place.is_empty(), "{server}");
        assert!(
            !place.contains(['@', '/', '?', '#', ',']) && place.bytes().all(|byte| byte.is_ascii_graphic()),
            "{server}"
        );
    }
    let bare = ConnectOptions { servers: options.servers.clone(), ..ConnectOptions::default() };
    let again = bare.take_credentials().expect("what is accepted is accepted again");
    assert_eq!(again.servers, options.servers);
    assert!(again.user.is_none() && again.password.is_none() && again.token.is_none(), "they were taken out");
    let shown: String = [&options.domain, &options.inbox_prefix].into_iter().flatten().cloned().collect();
    if !shown.contains(LEAK) && !options.servers.concat().contains(LEAK) {
        assert!(!format!("{options:?}").contains(LEAK), "{options:?}");
    }
}

fn text(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let _ = take(&[text.to_owned()]);
}

/// One server of a list, and what its login has to give.
struct Server {
    text: String,
    /// User, if it is not a token alone, and secret.
    login: Option<(Option<String>, String)>,
    /// Nothing in it can be read in another way.
    is_plain: bool,
}

/// Every server with credentials in the list has a secret, and no message shows it, whatever is wrong.
fn list(script: &mut Bytes) {
    let mut texts = vec![String::new()];
    let mut servers = Vec::new();
    while !script.is_empty() && servers.len() < SERVERS_MAX {
        let server = server(script);
        if !servers.is_empty() {
            match script.below(4) {
                0 => texts.push(String::new()),
                1 => texts.last_mut().expect("never empty").push_str(" ,, "),
                _ => texts.last_mut().expect("never empty").push(','),
            }
        }
        texts.last_mut().expect("never empty").push_str(&server.text);
        servers.push(server);
    }
    match (take(&texts), &servers[..]) {
        (Err(error), _) if servers.iter().any(|server| server.login.is_some()) => {
            assert!(!error.contains(LEAK), "{texts:?}: {error}");
        }
        (Err(_), _) => {}
        (Ok(options), [Server { login: Some((user, secret)), is_plain: true, .. }]) => {
            let found = if user.is_some() { &options.password } else { &options.token };
            assert!(found.as_ref() == Some(secret) && options.user == *user, "{texts:?}: {options:?}");
            assert!(!options.servers.concat().contains(LEAK), "{options:?}");
        }
        (Ok(options), servers) => {
            let plain = servers.iter().all(|server| server.is_plain);
            assert!(!plain || !options.servers.concat().contains(LEAK), "{texts:?}: {options:?}");
        }
    }
}

fn server(script: &mut Bytes) -> Server {
    let (scheme, is_ours) = match script.below(7) {
        6 => (words(script), false),
        known => (["nats://", "tls://", "", "ws://", "http://", "://"][known].to_owned(), known < 2),
    };
    let place = match script.below(7) {
        6 => words(script),
        known => ["h:1", "h", "[::1]:4222", "", "h:x", "h/path?query"][known].to_owned(),
    };
    let (user, secret, is_encoded) = (words(script), (words(script), words(script)), script.below(2) == 1);
    let is_plain = is_ours && is_encoded && !place.contains(['@', ',']);
    let plain = format!("{}{MARK}{}", secret.0, secret.1);
    let written =
        if is_encoded { format!("{}{MARK_ENCODED}{}", encode(&secret.0), encode(&secret.1)) } else { plain.clone() };
    let user_written = if is_encoded { encode(&user) } else { user.clone() };
    let (login, text) = match script.below(4) {
        0 => (None, String::new()),
        1 => (Some((None, plain)), format!("{written}@")),
        2 => (Some((Some(user), plain)), format!("{user_written}:{written}@")),
        _ => (Some((None, plain)), format!(":{written}@")),
    };
    Server { text: format!("{scheme}{text}{place}"), login, is_plain }
}

/// Text of others, which has nothing of the secrets.
fn words(script: &mut Bytes) -> String {
    let text = String::from_utf8_lossy(&script.short()).into_owned();
    if text.contains(LEAK) { String::new() } else { text }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// A file of the NATS command line tool.
fn context(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match foreign::context(text) {
        Ok(options) => check_accepted(&options),
        Err(error) => {
            let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            let url = json["url"].as_str().unwrap_or_default();
            // An address that cannot have a secret is quoted.
            let is_address = url.contains(LEAK) && !url.contains(['@', '?']);
            assert!(is_address || !error.contains(LEAK), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}

/// A seed that is slightly wrong, or any other secret in its place.
fn nkey(script: &mut Bytes) {
    let nkey = format!("{}{MARK}{}", words(script), words(script));
    let inbox_prefix = Some(words(script)).filter(|prefix| !prefix.is_empty());
    let options = ConnectOptions { nkey: Some(nkey), inbox_prefix, ..ConnectOptions::default() };
    check_accepted(&options);
    // What has the form of a seed is judged by the server.
    if let Err(error) = foreign::client_options(&options) {
        assert!(!error.contains(LEAK) && !error.contains(char::is_control), "{error:?}");
    }
}
