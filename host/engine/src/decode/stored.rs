//! What is wrong with a stored header block that no NATS client reads.

/// Begins every block.
const VERSION: &str = "NATS/1.0";

/// One line for the dead letter: the first fault in the block, and where.
pub(super) fn what_is_wrong(block: &[u8]) -> String {
    let text = match std::str::from_utf8(block) {
        Ok(text) => text,
        Err(error) => return format!("headers are not UTF-8 at byte {}", error.valid_up_to()),
    };
    let mut lines = text.split("\r\n");
    if !lines.next().is_some_and(|version| version.starts_with(VERSION)) {
        return format!("headers do not begin with `{VERSION}`");
    }
    // The block ends with an empty line.
    let fault = lines.filter(|line| !line.is_empty()).zip(1..).find_map(|(line, number)| {
        let what = line_fault(line)?;
        Some(format!("header {number} {what}"))
    });
    fault.unwrap_or_else(|| "headers are not such as a NATS client reads".to_owned())
}

fn line_fault(line: &str) -> Option<&'static str> {
    let Some((name, value)) = line.split_once(':') else { return Some("has no colon") };
    match () {
        () if name.is_empty() => Some("has no name"),
        () if !name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("has a name with a blank, a control character or a character beyond ASCII")
        }
        () if value.contains(['\r', '\n']) => Some("has a line break in its value"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::what_is_wrong;

    #[test]
    fn the_first_fault_is_named() {
        let cases: [(&[u8], &str); 9] = [
            (b"NATS/1.0\r\nUser: Andr\xe9\r\n\r\n", "headers are not UTF-8 at byte 20"),
            (b"A: 1\r\n\r\n", "headers do not begin with `NATS/1.0`"),
            (b"", "headers do not begin with `NATS/1.0`"),
            (b"NATS/1.0\r\nA: 1\r\nno colon\r\n\r\n", "header 2 has no colon"),
            (b"NATS/1.0\r\n: 1\r\n\r\n", "header 1 has no name"),
            (
                "NATS/1.0\r\nL\u{e4}nge: 1\r\n\r\n".as_bytes(),
                "header 1 has a name with a blank, a control character or a character beyond ASCII",
            ),
            (b"NATS/1.0\r\nA: x\ry\r\n\r\n", "header 1 has a line break in its value"),
            (b"NATS/1.0\r\nA: x\ny\r\n\r\n", "header 1 has a line break in its value"),
            (b"NATS/1.0 what\r\n\r\n", "headers are not such as a NATS client reads"),
        ];
        for (block, expected) in cases {
            assert_eq!(what_is_wrong(block), expected, "{}", block.escape_ascii());
        }
    }
}
