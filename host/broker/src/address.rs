//! Addresses of servers, and the credentials that people write into them: taken out before anything can print them.
//!
//! As in the NATS tools: `nats://user:password@host`, `nats://token@host`, `%40` for `@`; what stands in an address wins over
//! what was given apart. A list names the servers of one cluster, so its addresses have the same credentials or none.

use async_nats::ServerAddr;

use crate::error::BrokerError;

/// Who we are, as an address says it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password { user: String, password: String },
    Token(String),
}

/// Takes addresses apart: without credentials, and the credentials.
///
/// # Errors
/// When a text is not an address that this program can use; it is quoted only where it can hold no secret.
pub(crate) fn take_apart(texts: &[String]) -> Result<(Vec<String>, Option<Login>), BrokerError> {
    let pieces: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    let pieces: Vec<&str> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    let may_hold_secrets = pieces.iter().any(|piece| piece.contains(['@', '?']));
    let mut addresses = Vec::new();
    let mut login: Option<Login> = None;
    for (idx, piece) in pieces.iter().enumerate() {
        let fail = |why: &str| {
            let shown = if may_hold_secrets { String::new() } else { format!(" {piece:?}") };
            BrokerError::Options(format!("server address {}{shown}: {why}", idx + 1))
        };
        let (address, found) = split(piece, idx > 0).map_err(fail)?;
        if let Some(found) = found {
            if login.as_ref().is_some_and(|login| *login != found) {
                return Err(fail("has other credentials than the one before: the servers of a list are one cluster"));
            }
            login = Some(found);
        }
        addresses.push(address);
    }
    Ok((addresses, login))
}

/// One address. The last `@` ends the credentials, whatever stands before it.
fn split(text: &str, is_further: bool) -> Result<(String, Option<Login>), &'static str> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (login, place) = match rest.rsplit_once('@') {
        // Most likely a password with a comma in it, and what was before the comma is taken for a server.
        Some(_) if scheme.is_empty() && is_further => {
            return Err("has credentials but no scheme; write nats:// before it, and a comma in a password as %2C");
        }
        Some((login, place)) => (parse_login(login)?, place),
        None => (None, rest),
    };
    let scheme = if scheme.is_empty() { "nats" } else { scheme };
    // Nothing but host and port is of use behind the scheme, so nothing else can be a secret that is kept.
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.is_empty() || place.contains(['/', '?', '#', '\\']) || !place.chars().all(|char| char.is_ascii_graphic()) {
        return Err("is not an address such as nats://HOST:PORT");
    }
    let address = format!("{scheme}://{place}");
    let parsed: ServerAddr = address.parse().map_err(|_| "is not an address such as nats://HOST:PORT")?;
    if parsed.is_websocket() {
        return Err("WebSocket is not spoken here; write nats:// or tls:// and the port for clients");
    }
    if parsed.host().is_empty() {
        return Err("has no host");
    }
    Ok((address, login))
}

/// `user:password`, or a token alone.
fn parse_login(text: &str) -> Result<Option<Login>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.split_once(':') {
        None => Ok(Some(Login::Token(decode(text)?))),
        Some(("", _)) => Err("has a password but no user"),
        Some((user, password)) => Ok(Some(Login::Password { user: decode(user)?, password: decode(password)? })),
    }
}

/// `%XX` as the byte it stands for.
fn decode(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "has credentials in which a % is not followed by two hex digits of UTF-8; write % as %25";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(WRONG) };
        bytes.push((high * 16 + low) as u8);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<(String, Option<Login>), String> {
        let (addresses, login) = take_apart(&[text.to_owned()]).map_err(|error| error.to_string())?;
        Ok((addresses.join(" "), login))
    }

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
    }

    fn token(text: &str) -> Option<Login> {
        Some(Login::Token(text.to_owned()))
    }

    #[test]
    fn credentials_are_taken_out_of_addresses() {
        for (text, address, login) in [
            ("nats://h:1", "nats://h:1", None),
            ("h", "nats://h", None),
            ("nats://u:p@h:1", "nats://h:1", password("u", "p")),
            ("u:p@h:1", "nats://h:1", password("u", "p")),
            ("tls://t@h:1/", "tls://h:1", token("t")),
            ("nats://u:@h", "nats://h", password("u", "")),
            ("nats://@h", "nats://h", None),
            ("nats://u:p@ss@h:1", "nats://h:1", password("u", "p@ss")),
            ("nats://u:p/a?s#s:@h:1", "nats://h:1", password("u", "p/a?s#s:")),
            ("nats://u%3a:%70%40%25%c3%a9@[::1]:1", "nats://[::1]:1", password("u:", "p@%é")),
            ("nats://a:1, nats://t@b:2,,c", "nats://a:1 nats://b:2 nats://c", token("t")),
            ("nats://u:p@a,nats://u:p@b", "nats://a nats://b", password("u", "p")),
            ("", "", None),
        ] {
            let found = taken(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.0, address, "{text}");
            assert!(found.1 == login, "{text}");
        }
    }

    #[test]
    fn a_wrong_address_is_quoted_only_without_secrets() {
        for text in [
            "nats://u:S3CRET@:x",
            "nats://u:S3CRET@h:99999",
            "nats://u:S3CRET@h/path",
            "http://u:S3CRET@h",
            "ws://S3CRET@h",
            "nats://u:S3,CRET@h",
            "nats://u:12,S3CRET@h",
            "nats://u:S3CRET@",
            "nats://:S3CRET@h",
            "nats://u:%S3CRET@h",
            "nats://u:%ffS3CRET@h",
            "nats://u:S3CRET@a,nats://u:S3CRET2@b",
            "nats://S3CRET@a,nats://u:S3CRET@b",
            "nats://u:S3CRET@h\nx",
            "nats://h?token=S3CRET",
        ] {
            let error = taken(text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(!error.contains("S3") && !error.contains("CRET"), "{error}");
            assert!(error.starts_with("server address "), "{error}");
        }
        for text in ["nats://h:x", "ftp://h", "nats://", "wss://h", "a b"] {
            let error = taken(text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
