//! Contexts of the NATS command line tool: saved servers and credentials under a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::BrokerError;
use crate::options::{ConnectOptions, Tls, read_text};
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Saved {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    jetstream_domain: String,
    inbox_prefix: String,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Keys that say nothing about the connection.
const FOR_PEOPLE: [&str; 2] = ["description", "color_scheme"];

impl Saved {
    /// Keys that are set and that this program does not know.
    fn not_understood(&self) -> Vec<&str> {
        let is_set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::Bool(true) | Value::Number(_) => true,
        };
        let unknown = |(key, value): &(&String, &Value)| !FOR_PEOPLE.contains(&key.as_str()) && is_set(value);
        self.others.iter().filter(unknown).map(|(key, _)| key.as_str()).collect()
    }

    fn options(self) -> Result<ConnectOptions, BrokerError> {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let file = |text: String| some(text).map(|text| expand(&text));
        ConnectOptions {
            servers: some(self.url).into_iter().collect(),
            creds: file(self.creds),
            nkey: file(self.nkey).map(|path| path.to_string_lossy().into_owned()),
            user: some(self.user),
            password: some(self.password),
            token: some(self.token),
            tls: Tls { ca: file(self.ca), cert: file(self.cert), key: file(self.key) },
            domain: some(self.jetstream_domain),
            inbox_prefix: some(self.inbox_prefix),
            name: None,
        }
        .take_credentials()
    }
}

/// Reads a saved context; without a name the selected one. `Ok(None)` when no name is given and none is selected.
///
/// # Errors
/// When a context is named, or selected, and its file is not readable.
pub fn load_context(name: Option<&str>) -> Result<Option<ConnectOptions>, BrokerError> {
    let Some(folder) = folder() else {
        return match name {
            Some(name) => Err(BrokerError::Options(format!("context {name}: neither XDG_CONFIG_HOME nor HOME is set"))),
            None => Ok(None),
        };
    };
    load_from(&folder, name)
}

fn folder() -> Option<PathBuf> {
    let set = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("nats"))
}

fn load_from(folder: &Path, name: Option<&str>) -> Result<Option<ConnectOptions>, BrokerError> {
    let name = match name {
        Some(name) => name.to_string(),
        None => match read_text(&folder.join("context.txt")) {
            Ok(text) if !text.trim().is_empty() => text.trim().to_string(),
            _ => return Ok(None),
        },
    };
    let path = folder.join("context").join(format!("{name}.json"));
    let fail = |cause: String| BrokerError::Options(format!("context {name} ({}): {cause}", path.display()));
    let text = read_text(&path).map_err(|error| fail(error.to_string()))?;
    let saved = parse(&text).map_err(fail)?;
    let keys = saved.not_understood();
    if !keys.is_empty() {
        warn!(context = ?name, keys = keys.join(", "), "settings of the saved context that are not used");
    }
    saved.options().map(Some)
}

fn parse(text: &str) -> Result<Saved, String> {
    // The parser quotes what it does not like, and that may be a password.
    serde_json::from_str(text)
        .map_err(|error| format!("line {}, column {}: not a context", error.line(), error.column()))
}

/// The text of a context as options; for `tests/fuzz`.
pub(crate) fn options(text: &str) -> Result<ConnectOptions, String> {
    let saved = parse(text)?;
    let _ = saved.not_understood();
    saved.options().map_err(|error| error.to_string())
}

/// `~/` at the start is the home folder.
fn expand(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_by_name_and_by_selection() {
        let folder = crate::testing::TempDir::new().expect("temp folder");
        std::fs::create_dir_all(folder.path().join("context")).expect("folder");
        assert!(load_from(folder.path(), None).expect("nothing selected").is_none());
        let json = r#"{"description":"x","url":"nats://a:1, nats://b:2","user":"u","password":"p","ca":"/c.pem"}"#;
        std::fs::write(folder.path().join("context/prod.json"), json).expect("write");
        std::fs::write(folder.path().join("context.txt"), "prod\n").expect("write");
        for name in [None, Some("prod")] {
            let options = load_from(folder.path(), name).expect("readable").expect("found");
            assert_eq!(options.servers, ["nats://a:1", "nats://b:2"]);
            assert_eq!(options.user.as_deref(), Some("u"));
            assert_eq!(options.tls.ca, Some(PathBuf::from("/c.pem")));
            assert_eq!(options.token, None);
        }
        let error = load_from(folder.path(), Some("none")).expect_err("not there").to_string();
        assert!(error.contains("none"), "{error}");
    }

    #[test]
    fn secrets_of_a_context_are_used_and_not_quoted() {
        let folder = crate::testing::TempDir::new().expect("temp folder");
        std::fs::create_dir_all(folder.path().join("context")).expect("folder");
        let load = |json: &str| {
            std::fs::write(folder.path().join("context/c.json"), json).expect("write");
            load_from(folder.path(), Some("c"))
        };
        let options = load(r#"{"url":"nats://u:S3CRET@a:1,nats://b:2"}"#).expect("readable").expect("found");
        assert_eq!(options.servers, ["nats://a:1", "nats://b:2"]);
        assert_eq!((options.user.as_deref(), options.password.as_deref()), (Some("u"), Some("S3CRET")));
        for wrong in [
            r#"{"token": 5318008}"#,
            r#"{"password": ["S3CRET"]}"#,
            r#"{"token": "S3CRET" "user": 1}"#,
            r#""S3CRET""#,
            r#"{"url": {"S3CRET": 1}}"#,
        ] {
            let error = load(wrong).expect_err("no context").to_string();
            assert!(error.contains("line 1, column "), "{error}");
            assert!(!error.contains("S3CRET") && !error.contains("5318008"), "{error}");
        }
        let error = load(r#"{"url":"nats://u:S3CRET@a:x"}"#).expect_err("no port").to_string();
        assert!(error.contains("server address 1") && !error.contains("S3CRET"), "{error}");
    }

    #[test]
    fn what_a_context_says_in_vain_is_named() {
        let text = r#"{"description":"x","color_scheme":"red","url":"a","nsc":"","user_jwt":"","tls_first":false,
            "windows_ca_certs_match":null,"inbox_prefix":"_INBOX_b","jetstream_api_prefix":"hub.API","socks_proxy":"x"}"#;
        let saved: Saved = serde_json::from_str(text).expect("a context");
        assert_eq!(saved.inbox_prefix, "_INBOX_b");
        assert_eq!(saved.not_understood(), ["jetstream_api_prefix", "socks_proxy"]);
    }
}
