//! Where a field is in an event: a name (`user_id`) or a JSON pointer (`/user/id`).

/// Deepest field that can be named.
const SEGMENTS_MAX: usize = 16;

/// Segments of a field reference. A text without a leading `/` is one field name, dots and all.
///
/// # Errors
/// Says what is wrong, to follow "does not name a field: ".
pub(in crate::plan) fn pointer_parse(text: &str) -> Result<Vec<String>, String> {
    let Some(path) = text.strip_prefix('/') else {
        return if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(vec![text.to_owned()]) };
    };
    let segments: Vec<String> = path.split('/').map(unescape).collect::<Result<_, _>>()?;
    if segments.iter().any(String::is_empty) {
        return Err("a part of it is empty".to_owned());
    }
    if segments.len() > SEGMENTS_MAX {
        return Err(format!("it has {} parts, at most {SEGMENTS_MAX} are allowed", segments.len()));
    }
    Ok(segments)
}

/// The JSON pointer of these segments.
pub(in crate::plan) fn pointer_text(segments: &[String]) -> String {
    segments.iter().map(|segment| format!("/{}", segment.replace('~', "~0").replace('/', "~1"))).collect()
}

fn unescape(segment: &str) -> Result<String, String> {
    let mut parts = segment.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (letter, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err("`~` is followed by neither `0` nor `1`".to_owned()),
        };
        text.push(letter);
        text.push_str(rest);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_pointers() {
        let segments = |text: &str| pointer_parse(text).map(|segments| segments.join("|"));
        assert_eq!(segments("user_id"), Ok("user_id".to_owned()));
        assert_eq!(segments("user.id"), Ok("user.id".to_owned()));
        assert_eq!(segments("/user/id"), Ok("user|id".to_owned()));
        assert_eq!(segments("/a~1b/~0é"), Ok("a/b|~é".to_owned()));
        for wrong in ["", "/", "//a", "/a/", "/a~2", "/~", &"/a".repeat(17)] {
            assert!(segments(wrong).is_err(), "{wrong}");
        }
        assert_eq!(pointer_text(&["a/b".to_owned(), "~".to_owned()]), "/a~1b/~0");
    }
}
