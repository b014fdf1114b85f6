//! `[source]`: the stream, its partitions, and where an event keeps its key, time and fields.

use crate::plan::raw::{
    Pattern, Reader, Section, Spanned, check_stream_name, check_subject, pointer_hint, pointer_parse,
};
use crate::plan::{CreateStream, Dedupe, EventOrder, Key, Source, Time, TimeUnit};
use crate::problem::{Place, code};
use crate::time::Span;

use super::watermark;

const KEYS: [&str; 11] =
    ["stream", "subject", "partitions", "format", "key", "time", "watermark", "order", "dedupe", "fields", "create"];
const REQUIRED: [(&str, &str); 4] = [
    ("stream", "stream = \"PLAYS\""),
    ("subject", "subject = \"plays\""),
    ("key", "key = \"user_id\""),
    ("time", "time = { field = \"ts\", unit = \"ms\" }"),
];
const UNITS: [(&str, TimeUnit); 5] = [
    ("s", TimeUnit::Seconds),
    ("ms", TimeUnit::Millis),
    ("us", TimeUnit::Micros),
    ("ns", TimeUnit::Nanos),
    ("rfc3339", TimeUnit::Rfc3339),
];
const PARTITIONS_MAX: u64 = 1024;
const PARTITION: &str = "{partition}";

/// The source, and where each entry of `Source::fields` stands.
pub(super) struct Read {
    pub(super) source: Source,
    pub(super) key_place: Place,
    pub(super) dedupe_place: Place,
    pub(super) time_place: Place,
    pub(super) field_places: Vec<Place>,
}

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<Read> {
    let item = reader.item(root, "source")?;
    if item.value.is_array_of_tables() || item.value.is_array() {
        let message = "several sources are not supported yet".to_owned();
        reader.report(code::UNKNOWN_CHOICE, item.place, message, "write one `[source]` table");
        return None;
    }
    let table = reader.table(root, "source")?;
    let section = reader.section(table, "`[source]`", &KEYS);
    reader.require(&section, &REQUIRED);
    let stream = stream(reader, &section);
    let partitions = match reader.item(&section, "partitions") {
        Some(_) => reader.integer(&section, "partitions", 1..=PARTITIONS_MAX).map(|count| count as u32),
        None => Some(1),
    };
    let subject = subject(reader, &section, partitions);
    reader.choice(&section, "format", "format", &[("json", ())]);
    let key = key(reader, &section, KEY, subject);
    let time = time(reader, &section);
    let watermark = watermark::read(reader, &section);
    let orders = [("arrival", EventOrder::Arrival), ("event-time", EventOrder::EventTime)];
    let order = reader.item(&section, "order").and_then(|_| reader.choice(&section, "order", "order", &orders));
    let dedupe = dedupe(reader, &section, subject);
    let (fields, field_places) = fields(reader, &section);
    let create = create(reader, &section, partitions);
    let source = Source {
        stream: stream?.to_owned(),
        subject: subject?.to_owned(),
        partitions: partitions?,
        create,
        key: key?,
        time: time?,
        watermark,
        order: order.unwrap_or_default(),
        dedupe,
        fields,
    };
    let place = |key| reader.item(&section, key).map_or(section.place, |item| item.place);
    let (key_place, dedupe_place, time_place) = (place("key"), place("dedupe"), place("time"));
    Some(Read { source, key_place, dedupe_place, time_place, field_places })
}

fn stream<'a>(reader: &mut Reader<'_>, section: &Section<'a>) -> Option<&'a str> {
    let stream = reader.text(section, "stream")?;
    match check_stream_name(stream.value) {
        Ok(()) => Some(stream.value),
        Err(reason) => {
            let message = format!("the stream `{}` {reason}", stream.value.escape_debug());
            reader.report(code::BAD_SUBJECT, stream.place, message, "write the name of a JetStream stream");
            None
        }
    }
}

/// The subject, also when it does not fit the partitions: the key may still be checked against it.
fn subject<'a>(reader: &mut Reader<'_>, section: &Section<'a>, partitions: Option<u32>) -> Option<&'a str> {
    let subject = reader.text(section, "subject")?;
    if let Err(reason) = check_subject(subject.value, Pattern { placeholders: &[PARTITION], stars: false }) {
        let message = format!("the subject `{}` {reason}", subject.value.escape_debug());
        let hint = "a partition is one literal subject; let `[source.create] ingest = \"plays.in.*\"` map many to it";
        reader.report(code::BAD_SUBJECT, subject.place, message, hint);
        return None;
    }
    let partitioned = subject.value.split('.').any(|token| token == PARTITION);
    match partitions {
        Some(1) if partitioned => {
            let message = format!("the subject `{}` has `{PARTITION}`, but `partitions` is 1", subject.value);
            reader.report(code::BAD_SUBJECT, subject.place, message, "raise `partitions` or remove the token");
        }
        Some(count @ 2..) if !partitioned => {
            let message = format!("the subject `{}` has no `{PARTITION}`, but `partitions` is {count}", subject.value);
            let hint = format!("write `subject = \"{}.{PARTITION}\"`", subject.value);
            reader.report(code::BAD_SUBJECT, subject.place, message, hint);
        }
        _ => {}
    }
    Some(subject.value)
}

/// The name of a string or integer that an event has: under which key of the file, in quotes as well, and how it is written.
#[derive(Clone, Copy)]
struct NameKey {
    key: &'static str,
    quoted: &'static str,
    hint: &'static str,
}

const KEY: NameKey = NameKey {
    key: "key",
    quoted: "`key`",
    hint: "write `key = \"user_id\"`, `key = { header = \"User\" }` or `key = { subject_token = 1 }`",
};
const ID: NameKey = NameKey {
    key: "id",
    quoted: "`id`",
    hint: "write `id = \"payment_id\"`, `id = { header = \"Nats-Msg-Id\" }` or `id = { subject_token = 1 }`",
};

fn key(reader: &mut Reader<'_>, section: &Section<'_>, of: NameKey, subject: Option<&str>) -> Option<Key> {
    let NameKey { key: name, quoted, hint } = of;
    let item = reader.item(section, name)?;
    if item.value.as_str().is_some() {
        return pointer(reader, section, name).map(|pointer| Key::Field(pointer.value));
    }
    let Some(table) = item.value.as_table_like() else {
        return reader.wrong_type_hint(name, item.value, item.place, "a field or a table", hint);
    };
    let known = ["header", "subject_token"];
    let table = reader.section(Spanned { value: table, place: item.place }, quoted, &known);
    match (reader.item(&table, "header"), reader.item(&table, "subject_token")) {
        (Some(_), None) => header(reader, &table),
        (None, Some(_)) => subject_token(reader, &table, subject),
        (None, None) if table.table.iter().next().is_some() => None, // an unknown key, reported above
        (both, _) => {
            let says = if both.is_some() { "both `header` and `subject_token`" } else { "nothing" };
            reader.report(code::BAD_FIELD, table.place, format!("{quoted} names {says}"), hint);
            None
        }
    }
}

/// `dedupe`: what an event is known by, and for how long.
fn dedupe(reader: &mut Reader<'_>, section: &Section<'_>, subject: Option<&str>) -> Option<Dedupe> {
    let table = reader.table(section, "dedupe")?;
    let table = reader.section(table, "`dedupe`", &["id", "ttl"]);
    reader.require(&table, &[("id", "id = \"payment_id\""), ("ttl", "ttl = \"1d\"")]);
    let id = key(reader, &table, ID, subject);
    let ttl = reader.duration(&table, "ttl", Span::from_secs(1)..=Span::from_secs(366 * 86_400));
    Some(Dedupe { id: id?, ttl: ttl?.value })
}

fn header(reader: &mut Reader<'_>, table: &Section<'_>) -> Option<Key> {
    let header = reader.text(table, "header")?;
    if !header.value.is_empty() && header.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Some(Key::Header(header.value.to_owned()));
    }
    let message = format!("`{}` is not the name of a header", header.value.escape_debug());
    reader.report(code::BAD_FIELD, header.place, message, "use visible ASCII without `:`");
    None
}

fn subject_token(reader: &mut Reader<'_>, table: &Section<'_>, subject: Option<&str>) -> Option<Key> {
    let place = reader.item(table, "subject_token")?.place;
    let token = reader.integer(table, "subject_token", 0..=u64::from(u8::MAX))?;
    let subject = subject?;
    let last = subject.split('.').count() as u64 - 1;
    if token > last {
        let message = format!("`subject_token` is {token}, but the last token of the subject `{subject}` is {last}");
        reader.report(code::BAD_FIELD, place, message, "tokens are counted from 0");
        return None;
    }
    Some(Key::SubjectToken(token as u32))
}

fn time(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Time> {
    let item = reader.item(section, "time")?;
    let Some(table) = item.value.as_table_like() else {
        let hint = "write `time = { field = \"ts\", unit = \"ms\" }`";
        return reader.wrong_type_hint("time", item.value, item.place, "a table", hint);
    };
    let table = reader.section(Spanned { value: table, place: item.place }, "`time`", &["field", "unit"]);
    reader.require(&table, &[("field", "field = \"ts\""), ("unit", "unit = \"ms\"")]);
    let field = pointer(reader, &table, "field");
    let unit = reader.choice(&table, "unit", "unit of time", &UNITS);
    Some(Time { field: field?.value, unit: unit? })
}

/// `[source.fields]`, in the order of the file, with the place of each name.
fn fields(reader: &mut Reader<'_>, section: &Section<'_>) -> (Vec<(String, Vec<String>)>, Vec<Place>) {
    let Some(table) = reader.table(section, "fields") else {
        return (Vec::new(), Vec::new());
    };
    let names: Vec<&str> = table.value.iter().map(|(name, _)| name).collect();
    let section = reader.section(table, "`[source.fields]`", &names);
    let read = names.iter().filter_map(|name| {
        let pointer = pointer(reader, &section, name)?;
        Some(((String::from(*name), pointer.value), reader.key_place(&section, name)))
    });
    read.unzip()
}

fn create(reader: &mut Reader<'_>, section: &Section<'_>, partitions: Option<u32>) -> Option<CreateStream> {
    let table = reader.table(section, "create")?;
    let table = reader.section(table, "`[source.create]`", &["ingest", "max_age", "max_bytes"]);
    let century = Span::from_secs(36_500 * 86_400);
    Some(CreateStream {
        ingest: ingest(reader, &table, partitions),
        max_age: reader.duration(&table, "max_age", Span::from_secs(1)..=century).map(|age| age.value),
        max_bytes: reader.size(&table, "max_bytes", 1 << 20..=1 << 50).map(|bytes| bytes.value),
    })
}

fn ingest(reader: &mut Reader<'_>, table: &Section<'_>, partitions: Option<u32>) -> Option<String> {
    let ingest = reader.text(table, "ingest")?;
    let checked = check_subject(ingest.value, Pattern { placeholders: &[], stars: true });
    let reason = match (checked, partitions) {
        (Err(reason), _) => reason,
        (Ok(()), Some(count @ 2..)) if !ingest.value.ends_with('*') => {
            format!("does not end in `*`, so nothing could be mapped to {count} partitions")
        }
        (Ok(()), _) => return Some(ingest.value.to_owned()),
    };
    let message = format!("the subject `{}` {reason}", ingest.value.escape_debug());
    let hint = "write tokens and `*`, such as `plays.in.*`; the last token is the key";
    reader.report(code::BAD_SUBJECT, ingest.place, message, hint);
    None
}

/// A field name or JSON pointer.
fn pointer(reader: &mut Reader<'_>, section: &Section<'_>, key: &str) -> Option<Spanned<Vec<String>>> {
    let text = reader.text(section, key)?;
    match pointer_parse(text.value) {
        Ok(value) => Some(Spanned { value, place: text.place }),
        Err(reason) => {
            let message = format!("`{}` for `{key}` does not name a field: {reason}", text.value.escape_debug());
            reader.report(code::BAD_FIELD, text.place, message, pointer_hint(text.value));
            None
        }
    }
}
