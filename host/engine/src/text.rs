//! What of foreign text may be shown: one rule for terminal, log and names.
//!
//! Text of others comes from events, modules, pipeline files, file names, arguments and servers. Shown as it is, it moves
//! the cursor, sets titles, begins lines that look like ours, or reads otherwise than it is. So it is escaped where it
//! leaves the program.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character can be seen as what it is: no control character (line breaks are), no separator of lines or
/// paragraphs, none that is invisible or reorders the text around it.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // grapheme joiner
            | '\u{61c}' // Arabic letter mark
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // fillers of Hangul
            | '\u{17b4}' | '\u{17b5}' // inherent vowels of Khmer
            | '\u{180b}'..='\u{180f}' // Mongolian selectors and vowel separator
            | '\u{200b}'..='\u{200f}' // zero width, marks of direction
            | '\u{2028}'..='\u{202e}' // line, paragraph, embeddings and overrides of direction
            | '\u{2060}'..='\u{206f}' // joiner, invisible operators, isolates, deprecated formats
            | '\u{feff}' // byte order mark
            | '\u{fff0}'..='\u{fffb}' // annotations
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' // shorthand, music
            | '\u{e0000}'..='\u{e0fff}' // tags, more selectors
        )
}

/// The text with everything unprintable as `\u{…}`: always one line.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, is_printable, |character, out| out.extend(character.escape_unicode()))
}

/// JSON with everything unprintable as `\u…`: the same value, since such characters stand only in its texts. Of the white
/// space between its tokens line breaks and tabs stay, and a carriage return becomes a blank.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let is_kept = |character| is_printable(character) || matches!(character, '\n' | '\t');
    escape(json, is_kept, |character, out| {
        if character == '\r' {
            out.push(' ');
            return;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("writing to a string does not fail");
        }
    })
}

fn escape(text: &str, is_kept: fn(char) -> bool, put: fn(char, &mut String)) -> Cow<'_, str> {
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 32);
    for character in text.chars() {
        if is_kept(character) {
            out.push(character);
        } else {
            put(character, &mut out);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_seen_stays() {
        for text in ["", "plain text", "größer – 東京 नमस्ते שלום", "🙂 👍🏽", "a\u{301}", "\u{fffd}", "no\u{a0}break"]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn control_format_and_invisible_characters_are_escaped() {
        let mut hidden: Vec<char> = ('\0'..'\u{20}').chain('\u{7f}'..='\u{9f}').collect();
        hidden.extend('\u{200b}'..='\u{200f}');
        hidden.extend('\u{2028}'..='\u{202e}');
        hidden.extend('\u{2060}'..='\u{206f}');
        hidden.extend(['\u{ad}', '\u{61c}', '\u{180e}', '\u{3164}', '\u{feff}', '\u{fff9}', '\u{e0041}', '\u{e0100}']);
        for character in hidden {
            assert!(!is_printable(character), "{character:?}");
            let text = printable(&format!("a{character}b")).into_owned();
            assert_eq!(text, format!("a\\u{{{:x}}}b", u32::from(character)));
        }
        assert_eq!(printable("x\nerror: y\u{1b}[2J\u{202e}"), "x\\u{a}error: y\\u{1b}[2J\\u{202e}");
    }

    #[test]
    fn json_means_the_same() {
        assert_eq!(
            printable_json("{\r\n\t\"a\": \"\u{202e}\u{e0041}\u{9b}\"\n}"),
            "{ \n\t\"a\": \"\\u202e\\udb40\\udc41\\u009b\"\n}"
        );
    }

    proptest! {
        #[test]
        fn json_of_any_text_is_clean_and_means_the_same(text in "[\\PC\u{200b}\u{202e}\u{feff}\u{e0041}\n\r\t\u{7f}\u{85}\\\\\"]{0,20}") {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let clean = printable_json(&json);
            prop_assert!(clean.chars().all(|c| is_printable(c) || c == '\n'), "{clean:?}");
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&clean).unwrap(), vec![text]);
        }
    }
}
