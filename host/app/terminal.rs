//! The exit: all text that this program writes for people leaves here, cleaned of what others may have put into it.
//!
//! Names, messages and payloads come from events, modules, pipeline files, arguments and servers. Cleaned is where text
//! leaves, so nobody who hands it on has to think of it. Rows are data: on their way to files and pipes they stay as they are.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use clap::error::ContextValue;
use pelton_engine::text::{is_printable, printable, printable_json};
use serde::Serialize;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// A line on stdout.
pub(crate) fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", printable(text))
}

/// Lines on stdout whose parts have been cleaned one by one, such as a table.
pub(crate) fn say_lines(clean: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{clean}")
}

/// Pretty JSON and a newline on stdout: the same values, with `\u…` for what would not be seen.
pub(crate) fn say_json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(io::stdout().lock(), "{}", printable_json(&text))
}

/// Rows as stdout takes them: cleaned when it is a terminal.
pub(crate) fn rows(rows: &[u8]) -> Cow<'_, [u8]> {
    rows_for(io::stdout().is_terminal(), rows)
}

fn rows_for(is_terminal: bool, rows: &[u8]) -> Cow<'_, [u8]> {
    if !is_terminal {
        return Cow::Borrowed(rows);
    }
    Cow::Owned(printable_json(&String::from_utf8_lossy(rows)).into_owned().into_bytes())
}

/// Lines on stderr, each a text of its own. There is nowhere left to say that stderr is closed.
pub(crate) fn tell<'a>(lines: impl IntoIterator<Item = &'a str>) {
    let mut text = String::new();
    for line in lines {
        text.push_str(&printable(line));
        text.push('\n');
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A question on stderr; the answer follows on the same line.
pub(crate) fn ask(question: &str) {
    let _ = io::stderr().write_all(printable(question).as_bytes());
}

/// What is wrong with the arguments, or the help. It quotes arguments, and one that landed in the wrong place may be an
/// address with a password.
pub(crate) fn tell_usage(mut error: clap::Error) {
    let quoted: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in quoted {
        match value {
            ContextValue::String(text) => error.insert(kind, ContextValue::String(quotable(&text))),
            ContextValue::Strings(texts) => {
                error.insert(kind, ContextValue::Strings(texts.iter().map(|text| quotable(text)).collect()))
            }
            // Suggestions, which quote as well; their colours go.
            ContextValue::StyledStrs(texts) => {
                let texts = texts.iter().map(|text| quotable(&text.to_string()).into());
                error.insert(kind, ContextValue::StyledStrs(texts.collect()))
            }
            _ => None,
        };
    }
    if is_all_given_printable() {
        // In colour where that is wanted; a closed pipe is none of our business.
        let _ = error.print();
        return;
    }
    let text = error.render().to_string();
    if error.use_stderr() {
        tell(text.lines());
    } else {
        let lines: Vec<_> = text.lines().map(printable).collect();
        let _ = say_lines(&lines.join("\n"));
    }
}

/// Whether all that the command line is made of can be printed: its arguments, and the variables that stand for some.
fn is_all_given_printable() -> bool {
    let is_ours =
        |name: &OsStr| ["PELTON_", "NATS_"].iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()));
    let variables = std::env::vars_os().filter(|(name, _)| is_ours(name)).map(|(_, value)| value);
    std::env::args_os().chain(variables).all(|text| text.to_string_lossy().chars().all(is_printable))
}

/// A text on one line, without what stands before an `@`.
fn quotable(text: &str) -> String {
    let text = without_credentials(text);
    printable(&text).into_owned()
}

/// An address, or what looks like one, with `***` for its credentials.
pub(crate) fn without_credentials(text: &str) -> String {
    let Some((before, place)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    let slashes = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{slashes}***@{place}")
}

/// Fields of log lines, the message among them, without what cannot be printed.
pub(crate) struct CleanFields;

impl<'writer> FormatFields<'writer> for CleanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable(&text))
    }
}

/// Stderr for log lines in JSON, each written at once.
pub(crate) struct CleanJson;

impl MakeWriter<'_> for CleanJson {
    type Writer = CleanJson;

    fn make_writer(&self) -> CleanJson {
        CleanJson
    }
}

impl Write for CleanJson {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(printable_json(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_out_of_what_looks_like_an_address() {
        for (text, shown) in [
            ("nats://u:p@h:1", "nats://***@h:1"),
            ("--server=nats://u:p@s@h", "--server=nats://***@h"),
            ("u:p@h", "***@h"),
            ("nats://h:1", "nats://h:1"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn rows_are_cleaned_for_a_terminal_only() {
        let rows = "{\"a\":\"\u{202e}\"}\nu1\u{1b}[2J\n".as_bytes();
        assert_eq!(&*rows_for(false, rows), rows);
        assert_eq!(&*rows_for(true, rows), b"{\"a\":\"\\u202e\"}\nu1\\u001b[2J\n");
        assert_eq!(&*rows_for(true, b"\xff"), "\u{fffd}".as_bytes());
    }

    #[test]
    fn log_lines_have_no_line_of_others() {
        let mut text = String::new();
        let value = "x\n2026 ERROR forged\u{1b}[2J\u{9b}\u{202e}";
        let log = tracing_subscriber::fmt().fmt_fields(CleanFields).with_writer(Buffer::default);
        tracing::subscriber::with_default(log.finish(), || {
            tracing::warn!(server = %value, quoted = ?value, text = value, "{value}");
        });
        Buffer::take(&mut text);
        assert_eq!(text.lines().count(), 1, "{text}");
        // The colours of the level are ours.
        let foreign = text.split_once("WARN").expect("a level").1;
        assert!(!foreign.contains(['\u{9b}', '\u{202e}']) && !foreign.contains("\u{1b}[2J"), "{text:?}");
    }

    thread_local! {
        static WRITTEN: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    /// What this thread has logged.
    #[derive(Default)]
    struct Buffer;

    impl Buffer {
        fn take(text: &mut String) {
            WRITTEN.with_borrow_mut(|bytes| text.push_str(&String::from_utf8_lossy(&std::mem::take(bytes))));
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
