//! From text to [`Draft`]: everything that can be checked without the modules.
//!
//! One file per table of the pipeline file. Each reads its keys through the [`Reader`], which collects problems,
//! and answers `None` when something it needs is not usable.

mod limits;
mod output;
mod source;
mod stage;
mod watermark;
mod window;

use toml_edit::{Document, TableLike};

use super::draft::Draft;
use super::raw::{Reader, Spanned, json_text, size_text};
use crate::problem::{Place, Problem, code};

/// Longest pipeline file. Larger data belongs in a module or a table.
const TEXT_BYTES_MAX: usize = 1 << 20;

const KEYS: [&str; 5] = ["name", "source", "stage", "output", "limits"];
const REQUIRED: [(&str, &str); 3] =
    [("name", "name = \"fraud\""), ("source", "[source]"), ("output", "[output.alerts]")];

/// Reads a pipeline file and reports everything that is wrong with its text, in the order of the text.
///
/// There is a draft exactly when there is no problem.
#[must_use]
pub fn parse(text: &str) -> (Option<Draft>, Vec<Problem>) {
    let mut reader = Reader::new(text);
    let draft = read(text, &mut reader);
    let problems = reader.finish();
    assert!(draft.is_some() || !problems.is_empty(), "a part that is not usable has been reported");
    (draft.filter(|_| problems.is_empty()), problems)
}

fn read(text: &str, reader: &mut Reader<'_>) -> Option<Draft> {
    if text.len() > TEXT_BYTES_MAX {
        let (is, most) = (size_text(text.len() as u64), size_text(TEXT_BYTES_MAX as u64));
        let message = format!("the file has `{is}`, at most `{most}` is allowed");
        reader.report(code::SYNTAX, Place::START, message, "keep large data out of the pipeline file");
        return None;
    }
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let place = reader.place(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', ", ");
            reader.report(
                code::SYNTAX,
                place,
                message,
                "the file has to be valid TOML; nothing after this was checked",
            );
            return None;
        }
    };
    let table = Spanned { value: document.as_table() as &dyn TableLike, place: Place::START };
    let root = reader.section(table, "the pipeline file", &KEYS);
    reader.require(&root, &REQUIRED);
    let name = reader.text(&root, "name").and_then(|name| reader.name("a pipeline", name));
    let source = source::read(reader, &root);
    let stages = stage::read(reader, &root);
    let context = output::Context {
        pipeline: name.map(|name| name.value),
        source: source.as_ref().map(|read| &read.source),
        stages: &stages,
    };
    let outputs = output::read(reader, &root, &context);
    let limits = limits::read(reader, &root);
    let source = source?;
    Some(Draft {
        name: name?.value.to_owned(),
        source: source.source,
        key_place: source.key_place,
        dedupe_place: source.dedupe_place,
        time_place: source.time_place,
        field_places: source.field_places,
        stages: stages.into_iter().collect::<Option<_>>()?,
        outputs,
        limits,
        document: json_text(table.value).ok()?,
    })
}
