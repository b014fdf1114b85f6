//! Contexts of the NATS command line tool: saved servers and credentials under a name.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::connect::{BrokerError, ConnectOptions, Tls};

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
        None => match std::fs::read_to_string(folder.join("context.txt")) {
            Ok(text) if !text.trim().is_empty() => text.trim().to_string(),
            _ => return Ok(None),
        },
    };
    let path = folder.join("context").join(format!("{name}.json"));
    let fail = |cause: String| BrokerError::Options(format!("context {name} ({}): {cause}", path.display()));
    let text = std::fs::read(&path).map_err(|error| fail(error.to_string()))?;
    let saved: Saved = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let file = |text: String| some(text).map(|text| expand(&text));
    Ok(Some(ConnectOptions {
        servers: saved.url.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_string).collect(),
        creds: file(saved.creds),
        nkey: file(saved.nkey).map(|path| path.to_string_lossy().into_owned()),
        user: some(saved.user),
        password: some(saved.password),
        token: some(saved.token),
        tls: Tls { ca: file(saved.ca), cert: file(saved.cert), key: file(saved.key) },
        domain: some(saved.jetstream_domain),
        name: None,
    }))
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
}
