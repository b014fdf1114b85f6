//! What is wrong with a pipeline file, and where.
//!
//! `plan` reports problems; the command line prints them as `pipelines/fraud.toml:14:9: E0104: …`.
//! A code is stable: it is never reused with another meaning. Each code has a page in `host/engine/problems`;
//! a code without its page does not build, and a test refuses a page without its code.

use std::fmt;

/// A place in a text: line and column, both from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    /// The first character of a text.
    pub const START: Place = Place { line: 1, column: 1 };
}

/// One thing to correct in a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of [`code`].
    pub code: &'static str,
    /// Lower case, no full stop, ids in backticks, both sides with their units.
    pub message: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    #[must_use]
    pub fn new(code: &'static str, place: Place, message: String) -> Problem {
        let Place { line, column } = place;
        Problem { code, message, line, column, hint: None }
    }

    /// The same problem with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { line: self.line, column: self.column }
    }

    /// For printing: the lines `path:line:column: code: message` and `  hint: …`.
    pub fn in_file(&self, path: &str) -> impl Iterator<Item = String> {
        let hint = self.hint.as_ref().map(|hint| format!("  hint: {hint}"));
        std::iter::once(format!("{path}:{self}")).chain(hint)
    }
}

/// `line:column: code: message`, without path and hint.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.line, self.column, self.code, self.message)
    }
}

/// Declares the codes, and beside each its page.
macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $code:literal;)*) => {
        /// The closed list of codes. `E01..` are seen in the text alone, `E02..` need the modules.
        pub mod code {
            $($(#[$meta])* pub const $name: &str = $code;)*
        }

        /// Every code with its page, in order.
        pub const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../problems/", $code, ".md")))),*];
    };
}

codes! {
    /// The file is not TOML.
    SYNTAX = "E0101";
    /// A key that the table does not have.
    UNKNOWN_KEY = "E0102";
    /// A key that has to be there.
    MISSING_KEY = "E0103";
    /// The parts of a window do not fit together.
    WINDOW_SHAPE = "E0104";
    /// A value of another type.
    WRONG_TYPE = "E0105";
    /// A value that is malformed or out of its bounds.
    BAD_VALUE = "E0106";
    /// A name that is malformed or taken.
    BAD_NAME = "E0107";
    /// A subject or stream that cannot be used here.
    BAD_SUBJECT = "E0108";
    /// A reference to a field, header or subject token that cannot be read.
    BAD_FIELD = "E0109";
    /// A module reference that is not a path.
    BAD_MODULE = "E0110";
    /// A word that is not among the known ones.
    UNKNOWN_CHOICE = "E0111";
    /// An output that names a stage that is not there, or takes what another one has.
    BAD_OUTPUT = "E0112";
    /// A configuration value that JSON cannot hold.
    BAD_CONFIG = "E0113";
    /// A name that the host uses itself.
    RESERVED_NAME = "E0114";
    /// A window where the module takes none, or none where it needs one.
    WINDOW_WORLD = "E0201";
    /// A stage after a stage that keeps state.
    STATE_NOT_LAST = "E0202";
    /// A field that is read as two kinds.
    FIELD_KIND = "E0203";
    /// A field that the source cannot give, or gives to nobody.
    FIELD_SOURCE = "E0204";
    /// An output on a port that is not there or not free.
    BAD_PORT = "E0205";
    /// A module that cannot be loaded.
    MODULE_LOAD = "E0206";
    /// A module that refuses its configuration.
    MODULE_CONFIG = "E0207";
    /// A rule that asks for an aggregate that it does not declare.
    RULE_AGGREGATE = "E0208";
    /// A module that tells lanes apart which the input does not have.
    LANE = "E0209";
    /// More counters than a marker has room for.
    COUNTERS = "E0210";
    /// A time to live where nothing is kept by key.
    TTL_WORLD = "E0211";
}

/// The page of a code: what happened and what to do, as Markdown.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == code).map(|(_, page)| *page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_code_and_the_shape_of_a_page() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/problems");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder is part of the sources")
            .map(|entry| entry.expect("readable folder").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let codes: Vec<String> = PAGES.iter().map(|(code, _)| format!("{code}.md")).collect();
        assert_eq!(files, codes);
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}: title");
            assert!(page.contains("\n## What happened\n"), "{code}: what happened");
            assert!(page.contains("\n## What to do\n"), "{code}: what to do");
        }
        assert!(page("E0104").is_some() && page("E9999").is_none());
    }

    #[test]
    fn a_problem_prints_path_place_code_and_hint() {
        let place = Place { line: 14, column: 9 };
        let problem = Problem::new(code::WINDOW_SHAPE, place, "slide `7s`".to_owned()).with_hint("`6s`");
        assert_eq!(problem.to_string(), "14:9: E0104: slide `7s`");
        let lines: Vec<String> = problem.in_file("a.toml").collect();
        assert_eq!(lines, ["a.toml:14:9: E0104: slide `7s`", "  hint: `6s`"]);
        assert_eq!(problem.place(), place);
    }
}
