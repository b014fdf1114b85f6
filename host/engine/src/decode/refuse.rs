//! What is said of an event that is no JSON object, or whose key is no key.

use super::{DecodeFault, Name, fault, visit};
use crate::codes::Code;

/// What a parser's error means for the event `text`.
pub(super) fn syntax_fault(error: &serde_json::Error, text: &str) -> DecodeFault {
    if let Some(mark) = encoding_mark(text.as_bytes()) {
        return fault(Code::JsonSyntax, mark.to_owned());
    }
    if text.trim_start().as_bytes().first().is_some_and(|&byte| byte != b'{') && error.is_data() {
        let found = match text.trim_start().as_bytes().first() {
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b'n') => "null",
            Some(b't' | b'f') => "a boolean",
            _ => "a number",
        };
        return fault(Code::JsonNotObject, format!("the event is {found}, expected a JSON object"));
    }
    let message = error.to_string();
    let code = match () {
        () if message.starts_with("recursion limit") => Code::JsonDepth,
        () if message.starts_with("number out of range") => Code::JsonNumber,
        () => Code::JsonSyntax,
    };
    fault(code, message)
}

/// Whether a number can be a key or an id: an integer as it stands.
pub(super) fn name_digits(name: Name, numeral: &str) -> Result<(), DecodeFault> {
    const DIGITS_MAX: usize = 255;
    let digits = numeral.strip_prefix('-').unwrap_or(numeral);
    let reason = match () {
        () if !digits.bytes().all(|byte| byte.is_ascii_digit()) => "a number with a fraction or an exponent".to_owned(),
        () if digits.len() > DIGITS_MAX => format!("an integer of {} digits, limit {DIGITS_MAX}", digits.len()),
        () => return Ok(()),
    };
    let found = visit::shown(numeral);
    let word = name.word();
    let message = format!("the {word} has the wrong type: expected a string or an integer, found {reason} (`{found}`)");
    Err(fault(name.of_wrong_type(), message))
}

/// Says when bytes begin as another encoding than UTF-8 without a mark does.
pub(super) fn encoding_mark(payload: &[u8]) -> Option<&'static str> {
    const UTF_8: &str = "the event begins with a byte order mark (EF BB BF), expected JSON without one";
    const UTF_16: &str = "the event begins with the byte order mark of UTF-16, expected JSON in UTF-8";
    const UTF_32: &str = "the event begins with the byte order mark of UTF-32, expected JSON in UTF-8";
    const BARE: &str = "the event looks like UTF-16 (every other byte is 0), expected JSON in UTF-8";
    match payload {
        [0xef, 0xbb, 0xbf, ..] => Some(UTF_8),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some(UTF_32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(UTF_16),
        [b'{', 0, ..] | [0, b'{', ..] => Some(BARE),
        _ => None,
    }
}
