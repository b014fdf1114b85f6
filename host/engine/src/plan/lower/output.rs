//! `[output.NAME]`: what leaves the pipeline, from which stage, and where it is published.

use toml_edit::TableLike;

use crate::plan::draft::{DraftOutput, DraftStage, From};
use crate::plan::raw::{
    Pattern, Reader, Section, Spanned, check_stream_name, check_subject, nearest_or_list, subjects_overlap,
};
use crate::plan::{OutputStream, Source};
use crate::problem::code;

const KEYS: [&str; 3] = ["from", "subject", "stream"];
const OUTPUTS_MAX: usize = 32;
/// Streams of the host itself: one per pipeline.
const RESERVED: &str = "PELTON_";
/// First token of all subjects of the pipeline streams.
const RESERVED_TOKEN: &str = "pelton";
/// Files of a run over a file, and words that `tail` knows.
const RESERVED_NAMES: [(&str, &str); 2] = [("dlq", "dead letters"), ("late", "late events")];

/// What outputs are checked against; a part is absent when it was not usable.
pub(super) struct Context<'a> {
    pub(super) pipeline: Option<&'a str>,
    pub(super) source: Option<&'a Source>,
    pub(super) stages: &'a [Option<DraftStage>],
}

/// All usable outputs in the order of the file.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, context: &Context<'_>) -> Vec<DraftOutput> {
    const HINT: &str = "write a table such as `[output.alerts]` for each output";
    let Some(item) = reader.item(root, "output") else {
        return Vec::new();
    };
    let Some(table) = item.value.as_table_like() else {
        let nothing: Option<DraftOutput> =
            reader.wrong_type_hint("output", item.value, item.place, "a table of outputs", HINT);
        return nothing.into_iter().collect();
    };
    let names: Vec<&str> = table.iter().map(|(name, _)| name).collect();
    if names.is_empty() || names.len() > OUTPUTS_MAX {
        let message = format!("the pipeline has {} outputs, allowed are 1 to {OUTPUTS_MAX}", names.len());
        reader.report(code::BAD_VALUE, item.place, message, HINT);
    }
    let section = reader.section(Spanned { value: table, place: item.place }, "`[output]`", &names);
    let mut outputs: Vec<DraftOutput> = Vec::new();
    for name in names {
        let place = reader.key_place(&section, name);
        let name = reader.name("an output", Spanned { value: name, place });
        let table = match name {
            Some(name) if section.table.get(name.value).is_some_and(|item| !item.is_table_like()) => {
                let item = reader.item(&section, name.value);
                item.and_then(|item| reader.wrong_type_hint(name.value, item.value, item.place, "a table", HINT))
            }
            Some(name) => reader.table(&section, name.value),
            None => None,
        };
        if let (Some(name), Some(table)) = (name, table) {
            reader.reserved("an output", name, &RESERVED_NAMES);
            outputs.extend(output(reader, name, table, context, &outputs));
        }
    }
    outputs
}

fn output(
    reader: &mut Reader<'_>,
    name: Spanned<&str>,
    table: Spanned<&dyn TableLike>,
    context: &Context<'_>,
    before: &[DraftOutput],
) -> Option<DraftOutput> {
    let section = reader.section(table, "`[output]`", &KEYS);
    let from = match reader.text(&section, "from") {
        Some(from) => Some(from_stage(reader, from, context)?),
        None => None,
    };
    let stream = stream(reader, &section, name.value, context);
    if let Some(stream) = &stream {
        distinct(reader, &section, stream, context, before);
    }
    Some(DraftOutput { name: name.value.to_owned(), place: name.place, from, stream })
}

/// `stage` or `stage.port`.
fn from_stage(reader: &mut Reader<'_>, from: Spanned<&str>, context: &Context<'_>) -> Option<From> {
    let (name, port) = match from.value.split_once('.') {
        Some((stage, port)) => (stage, Some(port.to_owned())),
        None => (from.value, None),
    };
    let known: Vec<&str> = context.stages.iter().flatten().map(|stage| stage.stage.name.as_str()).collect();
    let of_name = |stage: &Option<DraftStage>| stage.as_ref().is_some_and(|stage| stage.stage.name == name);
    let found = context.stages.iter().position(of_name);
    // A stage that is not usable may be the one that is meant.
    if found.is_none() && known.len() == context.stages.len() {
        let message = format!("there is no stage `{}`", name.escape_debug());
        reader.report(code::BAD_OUTPUT, from.place, message, nearest_or_list(name, "stages", &known));
    }
    found.map(|stage| From { stage, port, place: from.place })
}

fn stream(reader: &mut Reader<'_>, section: &Section<'_>, output: &str, context: &Context<'_>) -> Option<OutputStream> {
    let name = reader.text(section, "stream");
    if let Some(name) = name {
        stream_name(reader, name);
    }
    let Some(subject) = reader.text(section, "subject") else {
        if let Some(name) = name.filter(|_| !section.table.contains_key("subject")) {
            let message = format!("the output sets `stream = \"{}\"` without `subject`", name.value.escape_debug());
            let hint = format!("add `subject = \"{}.{output}.{{key}}\"`", context.pipeline.unwrap_or("fraud"));
            reader.report(code::MISSING_KEY, name.place, message, hint);
        }
        return None;
    };
    if let Err(reason) = check_subject(subject.value, Pattern { placeholders: &["{key}"], stars: false }) {
        let message = format!("the subject `{}` {reason}", subject.value.escape_debug());
        reader.report(code::BAD_SUBJECT, subject.place, message, "write tokens, such as `fraud.alerts.{key}`");
        return None;
    }
    if subject.value.split('.').next() == Some(RESERVED_TOKEN) {
        let message =
            format!("the subject `{}` starts with `{RESERVED_TOKEN}`, which is reserved for the host", subject.value);
        reader.report(code::BAD_SUBJECT, subject.place, message, "choose another one, such as `fraud.alerts.{key}`");
        return None;
    }
    let name = match name {
        Some(name) => name.value.to_owned(),
        None => default_stream(context.pipeline?, output),
    };
    Some(OutputStream { subject: subject.value.to_owned(), name })
}

fn stream_name(reader: &mut Reader<'_>, stream: Spanned<&str>) {
    let reason = match check_stream_name(stream.value) {
        Ok(()) if !stream.value.starts_with(RESERVED) => return,
        Ok(()) => format!("starts with `{RESERVED}`, which is reserved for the host"),
        Err(reason) => reason,
    };
    let message = format!("the stream `{}` {reason}", stream.value.escape_debug());
    reader.report(code::BAD_SUBJECT, stream.place, message, "choose another name, such as `FRAUD_ALERTS`");
}

/// `fraud` and `alerts` give `FRAUD_ALERTS`.
fn default_stream(pipeline: &str, output: &str) -> String {
    format!("{pipeline}_{output}").replace('-', "_").to_uppercase()
}

/// Each output has a subject and a stream of its own, and none writes into the source.
fn distinct(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    stream: &OutputStream,
    context: &Context<'_>,
    before: &[DraftOutput],
) {
    let place_of = |key| reader.item(section, key).map(|item| item.place);
    let place = place_of("subject").unwrap_or(section.place);
    let stream_place = place_of("stream").unwrap_or(place);
    if context.source.is_some_and(|source| source.stream == stream.name) {
        let message = format!("the output is published into `{}`, the stream of the source", stream.name);
        reader.report(code::BAD_OUTPUT, stream_place, message, "choose another `stream`");
    }
    // The stream of the source may take such a subject, and then the pipeline reads what it has written.
    let ingest = context.source.and_then(|source| source.create.as_ref()?.ingest.as_deref());
    let inputs = [("subject", context.source.map(|source| source.subject.as_str())), ("ingest", ingest)];
    for (key, input) in inputs {
        if let Some(input) = input.filter(|input| subjects_overlap(input, &stream.subject)) {
            let message = format!(
                "the output is published to `{}`, which is a subject of the source (`{key} = \"{input}\"`): the pipeline would read its own output",
                stream.subject
            );
            reader.report(code::BAD_OUTPUT, place, message, "choose another `subject`, such as `fraud.alerts.{key}`");
            break;
        }
    }
    let others = before.iter().filter_map(|output| Some((&output.name, output.stream.as_ref()?)));
    for (name, other) in others {
        if subjects_overlap(&other.subject, &stream.subject) {
            let message = if other.subject == stream.subject {
                format!("the output `{name}` is published to `{}` as well", stream.subject)
            } else {
                format!("the output `{name}` is published to `{}`, which overlaps `{}`", other.subject, stream.subject)
            };
            reader.report(code::BAD_OUTPUT, place, message, "give each output a subject of its own");
        }
        if other.name == stream.name {
            let message = format!("the output `{name}` is published into the stream `{}` as well", stream.name);
            reader.report(code::BAD_OUTPUT, stream_place, message, "give each output a stream of its own");
        }
    }
}
