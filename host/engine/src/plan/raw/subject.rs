//! Subjects and stream names as JetStream takes them.

/// What may stand in a subject besides literal tokens.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct Pattern {
    /// Placeholders such as `{key}`: each a whole token, each at most once.
    pub(in crate::plan) placeholders: &'static [&'static str],
    /// Whether a token may be `*`. `>` is never allowed: it could not be mapped to a literal subject.
    pub(in crate::plan) stars: bool,
}

/// Longest subject or stream name in bytes; the server's own limits are higher.
const SUBJECT_BYTES_MAX: usize = 200;
const STREAM_BYTES_MAX: usize = 64;

/// Checks a subject.
///
/// # Errors
/// Says what is wrong, to follow "the subject `…`": "has an empty token".
pub(in crate::plan) fn check_subject(subject: &str, pattern: Pattern) -> Result<(), String> {
    if subject.len() > SUBJECT_BYTES_MAX {
        return Err(format!("has {} bytes, at most {SUBJECT_BYTES_MAX} are allowed", subject.len()));
    }
    if subject.starts_with('$') {
        return Err("starts with `$`, which is reserved for the server".to_owned());
    }
    let mut seen: Vec<&str> = Vec::new();
    for token in subject.split('.') {
        if token.is_empty() {
            return Err("has an empty token".to_owned());
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("has white space in it".to_owned());
        }
        if pattern.placeholders.contains(&token) {
            if seen.contains(&token) {
                return Err(format!("has `{token}` twice"));
            }
            seen.push(token);
        } else if token.contains(['{', '}']) {
            return Err(match pattern.placeholders {
                [] => format!("has `{token}`, but no placeholder can be used here"),
                [one, ..] => format!("has `{token}`, but only `{one}` as a token of its own can be used here"),
            });
        } else if token.contains(['*', '>']) && !(pattern.stars && token == "*") {
            return Err(format!("has the wildcard `{token}`"));
        }
    }
    Ok(())
}

/// Whether some subject fits both patterns. A `*` or a placeholder stands for any one token.
pub(in crate::plan) fn subjects_overlap(left: &str, right: &str) -> bool {
    let is_any = |token: &str| token == "*" || token.starts_with('{');
    let (lefts, rights) = (left.split('.'), right.split('.'));
    lefts.clone().count() == rights.clone().count()
        && lefts.zip(rights).all(|(left, right)| left == right || is_any(left) || is_any(right))
}

/// Checks the name of a stream.
///
/// # Errors
/// Says what is wrong, to follow "the stream `…`".
pub(in crate::plan) fn check_stream_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > STREAM_BYTES_MAX {
        return Err(format!("has {} bytes, 1 to {STREAM_BYTES_MAX} are allowed", name.len()));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
        Some(wrong) => {
            Err(format!("has `{}` in its name, allowed are letters, digits, `_` and `-`", wrong.escape_debug()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let literal = Pattern { placeholders: &["{key}"], stars: false };
        for good in ["plays", "plays.in.0", "a.{key}.b", "ä.b"] {
            assert_eq!(check_subject(good, literal), Ok(()), "{good}");
        }
        for bad in ["", ".", "a.", "a b", "a.*", "a.>", "$JS.x", "a.{k}", "x{key}", "{key}.{key}", "a.\u{7}"] {
            assert!(check_subject(bad, literal).is_err(), "{bad}");
        }
        let ingest = Pattern { placeholders: &[], stars: true };
        assert_eq!(check_subject("plays.*", ingest), Ok(()));
        for bad in ["plays.a*", "plays.>", "{key}", &"a".repeat(201)] {
            assert!(check_subject(bad, ingest).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlaps() {
        for (left, right) in
            [("a", "a"), ("a.{key}", "a.b"), ("a.*", "a.{key}"), ("a.{partition}", "a.7"), ("*.b", "a.*")]
        {
            assert!(subjects_overlap(left, right) && subjects_overlap(right, left), "{left} {right}");
        }
        for (left, right) in [("a", "b"), ("a.{key}", "a"), ("a.{key}.x", "a.b.y"), ("A", "a"), ("*", "a.b")] {
            assert!(!subjects_overlap(left, right) && !subjects_overlap(right, left), "{left} {right}");
        }
    }

    #[test]
    fn stream_names() {
        assert_eq!(check_stream_name("PLAYS_in-1"), Ok(()));
        for bad in ["", "a.b", "a b", "a*", "é", &"a".repeat(65)] {
            assert!(check_stream_name(bad).is_err(), "{bad}");
        }
    }
}
