//! Typed access to a TOML text that reports instead of failing.
//!
//! A getter answers `None` both when a key is absent and when its value does not fit; in the second case it has
//! reported a problem. Absence is reported by [`Reader::require`], once per table, so no absence is reported twice.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml_edit::{Item, Key, TableLike};

use super::duration::{duration_parse, span_text};
use super::size::{size_parse, size_text};
use super::suggest::nearest_or_list;
use crate::problem::{Place, Problem, code};
use crate::time::Span;

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) struct Spanned<T> {
    pub(in crate::plan) value: T,
    pub(in crate::plan) place: Place,
}

/// A table of the file.
#[derive(Clone)]
pub(in crate::plan) struct Section<'a> {
    pub(in crate::plan) table: &'a dyn TableLike,
    pub(in crate::plan) place: Place,
    /// As messages name it: `` `[source]` ``.
    title: &'static str,
}

/// The text, and the problems found in it so far.
pub(in crate::plan) struct Reader<'t> {
    text: &'t str,
    /// Byte offset of the start of each line.
    line_starts: Vec<usize>,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(in crate::plan) fn new(text: &'t str) -> Reader<'t> {
        let after_newline = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(idx, _)| idx + 1);
        Reader { text, line_starts: std::iter::once(0).chain(after_newline).collect(), problems: Vec::new() }
    }

    /// The problems, in the order of the text.
    pub(in crate::plan) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(Problem::place);
        self.problems
    }

    /// Line and column of a byte offset; beyond the end it is the end.
    pub(in crate::plan) fn place(&self, offset: usize) -> Place {
        let offset = self.text.floor_char_boundary(offset);
        let line_idx = self.line_starts.partition_point(|start| *start <= offset) - 1;
        let column = self.text[self.line_starts[line_idx]..offset].chars().count();
        Place { line: line_idx as u32 + 1, column: column as u32 + 1 }
    }

    /// Adds a problem.
    pub(in crate::plan) fn report(
        &mut self,
        code: &'static str,
        place: Place,
        message: String,
        hint: impl Into<String>,
    ) {
        self.problems.push(Problem::new(code, place, message).with_hint(hint));
    }

    /// Opens a table and reports the keys that are not `known`.
    pub(in crate::plan) fn section<'a>(
        &mut self,
        table: Spanned<&'a dyn TableLike>,
        title: &'static str,
        known: &[&str],
    ) -> Section<'a> {
        let section = Section { table: table.value, place: table.place, title };
        for (key, _) in table.value.iter().filter(|(key, _)| !known.contains(key)) {
            let place = self.key_place(&section, key);
            let hint = nearest_or_list(key, "known keys", known);
            self.report(code::UNKNOWN_KEY, place, format!("unknown key `{}` in {title}", key.escape_debug()), hint);
        }
        section
    }

    /// Reports every key of `examples` that is absent; an example is the whole line, `stream = "PLAYS"`.
    pub(in crate::plan) fn require(&mut self, section: &Section<'_>, examples: &[(&str, &str)]) {
        for (key, example) in examples.iter().filter(|(key, _)| !section.table.contains_key(key)) {
            let message = format!("{} has no `{key}`", section.title);
            self.report(code::MISSING_KEY, section.place, message, format!("write `{example}`"));
        }
    }

    /// The value of a key and where it starts.
    pub(in crate::plan) fn item<'a>(&self, section: &Section<'a>, key: &str) -> Option<Spanned<&'a Item>> {
        let value = section.table.get(key).filter(|item| !item.is_none())?;
        let place = match value.span() {
            Some(span) => self.place(span.start),
            None => self.key_place(section, key),
        };
        Some(Spanned { value, place })
    }

    /// Where a key starts.
    pub(in crate::plan) fn key_place(&self, section: &Section<'_>, key: &str) -> Place {
        section.table.key(key).and_then(Key::span).map_or(section.place, |span| self.place(span.start))
    }

    pub(in crate::plan) fn text<'a>(&mut self, section: &Section<'a>, key: &str) -> Option<Spanned<&'a str>> {
        let Spanned { value, place } = self.item(section, key)?;
        match value.as_str() {
            Some(value) => Some(Spanned { value, place }),
            None => self.wrong_type(key, value, place, "a string"),
        }
    }

    /// A table, in any of its notations.
    pub(in crate::plan) fn table<'a>(
        &mut self,
        section: &Section<'a>,
        key: &str,
    ) -> Option<Spanned<&'a dyn TableLike>> {
        let Spanned { value, place } = self.item(section, key)?;
        match value.as_table_like() {
            Some(value) => Some(Spanned { value, place }),
            None => self.wrong_type(key, value, place, "a table"),
        }
    }

    pub(in crate::plan) fn integer(
        &mut self,
        section: &Section<'_>,
        key: &str,
        bounds: RangeInclusive<u64>,
    ) -> Option<u64> {
        let Spanned { value, place } = self.item(section, key)?;
        let Some(number) = value.as_integer() else {
            return self.wrong_type(key, value, place, "a whole number");
        };
        let inside = u64::try_from(number).ok().filter(|number| bounds.contains(number));
        if inside.is_none() {
            self.out_of_bounds(key, place, &number, bounds.start(), bounds.end());
        }
        inside
    }

    pub(in crate::plan) fn duration(
        &mut self,
        section: &Section<'_>,
        key: &str,
        bounds: RangeInclusive<Span>,
    ) -> Option<Spanned<Span>> {
        const HINT: &str = "write whole numbers with units, such as `\"90s\"`, `\"5m\"`, `\"1h30m\"` or `\"250ms\"`";
        let Spanned { value, place } = self.item(section, key)?;
        let text = value.as_str();
        let parsed = match text {
            Some(text) => duration_parse(text),
            None => return self.wrong_type_hint(key, value, place, "a duration", HINT),
        };
        match parsed {
            Ok(span) if bounds.contains(&span) => Some(Spanned { value: span, place }),
            Ok(span) => {
                let (least, most) = (span_text(*bounds.start()), span_text(*bounds.end()));
                self.out_of_bounds(key, place, &span_text(span), &least, &most);
                None
            }
            Err(reason) => {
                let message =
                    format!("`{}` for `{key}` is not a duration: {reason}", text.unwrap_or_default().escape_debug());
                self.report(code::BAD_VALUE, place, message, HINT);
                None
            }
        }
    }

    /// A size in bytes, as a string with a unit or as an integer.
    pub(in crate::plan) fn size(
        &mut self,
        section: &Section<'_>,
        key: &str,
        bounds: RangeInclusive<u64>,
    ) -> Option<Spanned<u64>> {
        const HINT: &str =
            "write a whole number with a unit, such as `\"64MiB\"` or `\"10MB\"`, or an integer of bytes";
        let Spanned { value, place } = self.item(section, key)?;
        let parsed = match (value.as_str(), value.as_integer()) {
            (Some(text), _) => size_parse(text).map_err(|reason| (text.escape_debug().to_string(), reason)),
            (_, Some(bytes)) => u64::try_from(bytes).map_err(|_| (bytes.to_string(), "it is negative".to_owned())),
            _ => return self.wrong_type_hint(key, value, place, "a size", HINT),
        };
        match parsed {
            Ok(bytes) if bounds.contains(&bytes) => Some(Spanned { value: bytes, place }),
            Ok(bytes) => {
                let (least, most) = (size_text(*bounds.start()), size_text(*bounds.end()));
                self.out_of_bounds(key, place, &size_text(bytes), &least, &most);
                None
            }
            Err((text, reason)) => {
                self.report(code::BAD_VALUE, place, format!("`{text}` for `{key}` is not a size: {reason}"), HINT);
                None
            }
        }
    }

    /// One of a fixed list of words.
    pub(in crate::plan) fn choice<T: Copy>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Spanned { value, place } = self.text(section, key)?;
        let found = choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let message = format!("unknown {what} `{}`", value.escape_debug());
            self.report(code::UNKNOWN_CHOICE, place, message, nearest_or_list(value, "known are", &words));
        }
        found
    }

    /// A name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub(in crate::plan) fn name<'a>(&mut self, what: &str, name: Spanned<&'a str>) -> Option<Spanned<&'a str>> {
        let bytes = name.value.as_bytes();
        let letters = bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if letters && (1..=63).contains(&bytes.len()) && bytes[0] != b'-' {
            return Some(name);
        }
        let message = format!("`{}` cannot be the name of {what}", name.value.escape_debug());
        let hint = "use `a-z`, `0-9` and `-`, at most 63 characters, the first one a letter or digit";
        self.report(code::BAD_NAME, name.place, message, hint);
        None
    }

    /// Reports a name that the host uses itself in the same place, for `what`.
    pub(in crate::plan) fn reserved(&mut self, what: &str, name: Spanned<&str>, reserved: &[(&str, &str)]) {
        if let Some((_, used)) = reserved.iter().find(|(known, _)| *known == name.value) {
            let message = format!("`{}` cannot be the name of {what}: the host uses it for {used}", name.value);
            self.report(code::RESERVED_NAME, name.place, message, "choose another name");
        }
    }

    /// Reports a value of another type; `None`, so that a getter can end with it.
    pub(in crate::plan) fn wrong_type<T>(&mut self, key: &str, item: &Item, place: Place, wanted: &str) -> Option<T> {
        let hint = match wanted {
            "a string" => format!("write `{key} = \"…\"`"),
            "a table" => format!("write `{key} = {{ … }}`"),
            _ => format!("write `{key}` as {wanted}"),
        };
        self.wrong_type_hint(key, item, place, wanted, &hint)
    }

    /// The same with a hint of the caller's.
    pub(in crate::plan) fn wrong_type_hint<T>(
        &mut self,
        key: &str,
        item: &Item,
        place: Place,
        wanted: &str,
        hint: &str,
    ) -> Option<T> {
        let message = format!("`{key}` is {}, not {wanted}", type_name(item));
        self.report(code::WRONG_TYPE, place, message, hint);
        None
    }

    fn out_of_bounds(&mut self, key: &str, place: Place, value: &dyn Display, least: &dyn Display, most: &dyn Display) {
        let message = format!("`{key}` is `{value}`, allowed is `{least}` to `{most}`");
        self.report(code::BAD_VALUE, place, message, "choose a value within these bounds");
    }
}

/// A type as a sentence needs it.
fn type_name(item: &Item) -> &'static str {
    match item.type_name() {
        "string" => "a string",
        "integer" => "a whole number",
        "float" => "a number with a fraction",
        "boolean" => "a truth value",
        "datetime" => "a date",
        "array" => "a list",
        "inline table" | "table" => "a table",
        "array of tables" => "a list of tables",
        _ => "nothing",
    }
}
