//! Where a field is in an event: a name (`user_id`) or a JSON pointer (`/user/id`).

/// Deepest field that can be named.
const SEGMENTS_MAX: usize = 16;

/// Segments of a field reference. A text without a leading `/` is one field name, dots and all.
///
/// # Errors
/// Says what is wrong, to follow "does not name a field: ".
pub(in crate::plan) fn pointer_parse(text: &str) -> Result<Vec<String>, String> {
    let Some(path) = text.strip_prefix('/') else {
        return match text {
            "" => Err("it is empty".to_owned()),
            name if name.contains('/') => Err("it has a `/` inside and none in front".to_owned()),
            name => Ok(vec![name.to_owned()]),
        };
    };
    let segments: Vec<String> = path.split('/').map(unescape).collect::<Result<_, _>>()?;
    if segments.iter().any(String::is_empty) {
        return Err("a part of it is empty".to_owned());
    }
    if segments.len() > SEGMENTS_MAX {
        return Err(format!("it has {} parts, at most {SEGMENTS_MAX} are allowed", segments.len()));
    }
    // An event is an object, so only what follows the first part can be the index of a list.
    if let Some(part) = segments[1..].iter().find(|part| is_no_index(part)) {
        let reason = if part == "-" { "is the element after the last" } else { "is an index with a leading zero" };
        return Err(format!("its part `{part}` {reason}, which no list has (RFC 6901)"));
    }
    Ok(segments)
}

/// Whether a part looks like the index of a list and is none.
fn is_no_index(part: &str) -> bool {
    part == "-" || part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// What to write instead of `text`, a reference that [`pointer_parse`] has refused.
pub(in crate::plan) fn pointer_hint(text: &str) -> String {
    let parts = || text.split('/').skip(1);
    if !text.starts_with('/') && text.contains('/') {
        let name = text.replace('~', "~0").replace('/', "~1");
        return format!("write `\"/{text}\"` for a field inside others, or `\"/{name}\"` for one field of that name");
    }
    if parts().any(|part| part == "-") {
        return "elements are counted from 0; one from the end has no pointer".to_owned();
    }
    if parts().skip(1).any(is_no_index) {
        return "write the index without leading zeros, such as `\"/items/0/id\"`".to_owned();
    }
    "write a field name such as `\"user_id\"`, or a JSON pointer such as `\"/user/id\"`".to_owned()
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
        assert_eq!(segments("/items/0/id"), Ok("items|0|id".to_owned()));
        assert_eq!(segments("/items/10"), Ok("items|10".to_owned()));
        assert_eq!(segments("/007/-x/0x1"), Ok("007|-x|0x1".to_owned()));
        assert_eq!(segments("-"), Ok("-".to_owned()));
        for wrong in ["a/b", "a/", "/a/-", "/a/-/b", "/a/00", "/a/01/b"] {
            assert!(segments(wrong).is_err(), "{wrong}");
        }
        assert!(pointer_hint("a/b").contains("`\"/a/b\"`") && pointer_hint("a/b").contains("`\"/a~1b\"`"));
        for wrong in ["", "/", "//a", "/a/", "/a~2", "/~", &"/a".repeat(17)] {
            assert!(segments(wrong).is_err(), "{wrong}");
        }
        assert_eq!(pointer_text(&["a/b".to_owned(), "~".to_owned()]), "/a~1b/~0");
    }
}
