//! JSON events into typed columns: each event is parsed once, and only its wanted fields are looked at.
//!
//! What is decided here on purpose:
//! - The payload must be UTF-8 and one JSON object; text after the object is a syntax error.
//! - A wanted field that occurs twice is refused, even as `null`; other fields are skipped without being checked
//!   beyond syntax: `1e400` or half a surrogate pair in them is nobody's business.
//! - `null` is the same as missing. `1.0` is the integer 1, up to 2^53 - 1 in magnitude; `1.5` and integers beyond
//!   64 bits (signed) are not integers. An integer is a number. A wanted `1e400` is refused.
//! - An event that is not JSON at all is refused as such, whatever its fields held up to there.
//! - A field that is read leniently makes no event a dead letter: null and values of another kind are told as such.
//! - A decimal keeps its digits as they were written, up to 255 bytes of them, and may be written as a string, too.
//!   JSON is kept as it was written. Bytes are a string in base64, with or without padding.
//! - The key may be a string or an integer of up to 255 digits, which are taken as they stand; an empty key is missing.
//! - A name on the way to a wanted field may occur once, too. In a list the digits of a pointer are an index.
//! - Times are rounded down to milliseconds, whatever they are written in.

mod place;
mod refuse;
mod reread;
mod stored;
mod time;
mod visit;
mod wanted;

use serde::de::DeserializeSeed;

use crate::codes::Code;
use crate::event::{Column, Kind, Need, RawEvent, Strings, Values};
use crate::plan::{FieldRead, Key, Source, TimeUnit};
use crate::time::EventTime;
use place::KeyPlace;
pub use place::partition_of;
use refuse::{encoding_mark, name_digits, syntax_fault};
use visit::{Filling, Object};
use wanted::{Node, element};

/// Why an event cannot be read: becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFault {
    pub code: Code,
    /// Stage that declared the field, `None` for what the source itself needs.
    pub stage: Option<usize>,
    /// JSON pointer of the field at fault; empty for the whole event.
    pub path: String,
    pub message: String,
}

/// Decoded rows: what stages read.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    pub keys: Strings,
    /// What tells events of one key apart; empty unless they are deduplicated.
    pub ids: Strings,
    pub timestamps: Vec<i64>,
    /// One per [`FieldRead`].
    pub columns: Vec<Column>,
}

impl Decoded {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    fn name_mut(&mut self, name: Name) -> &mut Strings {
        match name {
            Name::Key => &mut self.keys,
            Name::Id => &mut self.ids,
        }
    }

    /// Empties all columns and keeps their allocations.
    pub fn clear(&mut self) {
        for names in [&mut self.keys, &mut self.ids] {
            names.data.clear();
            names.ends.clear();
        }
        self.timestamps.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}

/// Where a wanted value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Name(Name),
    Time,
    Field(usize),
}

/// What tells events apart: a string or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Key,
    Id,
}

impl Name {
    const ALL: [Name; 2] = [Name::Key, Name::Id];

    /// In messages.
    fn word(self) -> &'static str {
        match self {
            Name::Key => "key",
            Name::Id => "id",
        }
    }

    fn missing(self) -> Code {
        match self {
            Name::Key => Code::KeyMissing,
            Name::Id => Code::IdMissing,
        }
    }

    fn of_wrong_type(self) -> Code {
        match self {
            Name::Key => Code::KeyType,
            Name::Id => Code::IdType,
        }
    }
}

/// Reads events of one source for the fields of all its stages.
pub struct Decoder {
    root: Node,
    /// JSON pointers of the nodes with children; the first is the event itself.
    parents: Vec<String>,
    fields: Vec<FieldRead>,
    /// Where each [`Name`] is; `None` where nobody asks for it.
    names: [Option<Key>; 2],
    time_pointer: Vec<String>,
    unit: TimeUnit,
    max_future: i64,
    max_past: i64,
    payload_max: u64,
    /// Where the broker puts each key, when it is the one that does.
    place: Option<KeyPlace>,
    row: Row,
}

/// What the visitor has found in the event at hand.
#[derive(Default)]
struct Row {
    seen: Vec<Seen>,
    time: Option<i64>,
    time_seen: Seen,
    /// Whether the value has to be read once more, by its digits.
    reread_time: bool,
    /// Of each [`Name`] that is a field: whether it has occurred, and whether it has to be read once more.
    names: [(Seen, bool); 2],
    /// One per node with children: whether its name has occurred.
    parents: Vec<bool>,
    /// Nodes with children that hold no object.
    no_objects: Vec<(usize, NoObject)>,
    fault: Option<(At, DecodeFault)>,
    /// The target that is being read: where a syntax error is when reading stops.
    reading: Option<Target>,
}

/// Where a fault is.
#[derive(Clone, Copy, Debug)]
enum At {
    Target(Target),
    /// A node with children, by its id.
    Parent(usize),
}

/// What stands where an object with wanted fields should be.
#[derive(Clone, Copy, Debug)]
enum NoObject {
    /// Its length.
    List(usize),
    Scalar(&'static str),
}

/// Whether a wanted field has occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    No,
    /// Null, or of a field that is read leniently a value of another kind.
    Null,
    Value,
}

impl Decoder {
    /// A decoder for `source` that fills one column per entry of `fields`.
    #[must_use]
    pub fn new(source: &Source, fields: Vec<FieldRead>, payload_max: u64) -> Decoder {
        let mut root = Node::default();
        let names = [Some(source.key.clone()), source.dedupe.as_ref().map(|dedupe| dedupe.id.clone())];
        for (name, place) in Name::ALL.into_iter().zip(&names) {
            if let Some(Key::Field(pointer)) = place {
                root.want(pointer, Target::Name(name), false);
            }
        }
        root.want(&source.time.field, Target::Time, false);
        for (idx, field) in fields.iter().enumerate() {
            root.want(&field.pointer, Target::Field(idx), is_written(field));
        }
        let (parents, row) = begin(&mut root, fields.len());
        Decoder {
            root,
            parents,
            place: None,
            names,
            time_pointer: source.time.field.clone(),
            unit: source.time.unit,
            max_future: source.watermark.max_future.0,
            max_past: source.watermark.max_past.0,
            payload_max,
            fields,
            row,
        }
    }

    /// Refuses keys that the broker puts into another partition of `source` than this one, when it does that.
    #[must_use]
    pub fn in_partition(mut self, source: &Source, partition: u32) -> Decoder {
        let is_mapped = source.create.as_ref().is_some_and(|create| create.ingest.is_some()) && source.partitions > 1;
        self.place = is_mapped.then_some(KeyPlace { partition, partitions: source.partitions });
        self
    }

    /// A decoder for records between two stages: they bring their key and time with them. Only fields that are
    /// `needed` behind are looked at; the columns of the others stay empty.
    #[must_use]
    pub fn between_stages(fields: Vec<FieldRead>, needed: &[bool], payload_max: u64) -> Decoder {
        let mut root = Node::default();
        for (idx, field) in fields.iter().enumerate().filter(|(idx, _)| needed[*idx]) {
            root.want(&field.pointer, Target::Field(idx), is_written(field));
        }
        let (parents, row) = begin(&mut root, fields.len());
        Decoder {
            root,
            parents,
            place: None,
            names: [None, None],
            time_pointer: Vec::new(),
            unit: TimeUnit::Millis,
            max_future: i64::MAX,
            max_past: i64::MAX,
            payload_max,
            fields,
            row,
        }
    }

    /// Empty columns of the right kinds.
    #[must_use]
    pub fn columns(&self) -> Vec<Column> {
        self.fields.iter().map(|field| Column::new(field.kind)).collect()
    }

    /// Decodes one event of the source and appends it as a row, or leaves `out` as it was.
    ///
    /// # Errors
    /// A data fault; the event is a dead letter.
    pub fn decode(
        &mut self,
        event: &RawEvent,
        subject: &[u8],
        headers: &[u8],
        payload: &[u8],
        out: &mut Decoded,
    ) -> Result<(), DecodeFault> {
        if event.unreadable {
            return Err(fault(Code::Header, stored::what_is_wrong(headers)));
        }
        if let Some(whole) = &event.whole {
            return Err(too_large(whole.bytes, self.payload_max));
        }
        let rows = out.len();
        let result = self.read(payload, out).and_then(|()| {
            for name in Name::ALL {
                self.take_name(name, subject, headers, rows, out)?;
            }
            // Lines of a file come without a subject, and all partitions' keys are in one file.
            if let Some(place) = self.place.filter(|_| !subject.is_empty()) {
                place.check(out.keys.get(rows))?;
            }
            self.take_time(event.published.0)
        });
        match result {
            Ok(time) => {
                out.timestamps.push(time.0);
                Ok(())
            }
            Err(fault) => {
                roll_back(rows, out);
                Err(fault)
            }
        }
    }

    /// Decodes a record that a stage emitted, with the key and time the stage gave it.
    ///
    /// # Errors
    /// A data fault; the record is a dead letter of the stage that cannot read it.
    pub fn decode_record(
        &mut self,
        key: &[u8],
        time: i64,
        payload: &[u8],
        out: &mut Decoded,
    ) -> Result<(), DecodeFault> {
        /// 285,000 years, so that adding a window to a time that a module made up does not overflow.
        const TIME_MAX: u64 = 1 << 53;
        if time.unsigned_abs() > TIME_MAX {
            return Err(fault(Code::TimeRange, format!("the record's time {time} is out of range")));
        }
        let rows = out.len();
        match self.read(payload, out) {
            Ok(()) => {
                out.keys.push(key);
                out.timestamps.push(time);
                Ok(())
            }
            Err(fault) => {
                roll_back(rows, out);
                Err(fault)
            }
        }
    }

    fn read(&mut self, payload: &[u8], out: &mut Decoded) -> Result<(), DecodeFault> {
        if payload.len() as u64 > self.payload_max {
            return Err(too_large(payload.len() as u64, self.payload_max));
        }
        let text = std::str::from_utf8(payload).map_err(|error| {
            let message = format!("invalid UTF-8 at byte {}", error.valid_up_to());
            fault(Code::JsonUtf8, encoding_mark(payload).map_or(message, str::to_owned))
        })?;
        self.row.seen.fill(Seen::No);
        (self.row.time, self.row.time_seen, self.row.reread_time) = (None, Seen::No, false);
        self.row.names = Default::default();
        (self.row.fault, self.row.reading) = (None, None);
        self.row.parents.fill(false);
        self.row.no_objects.clear();
        let mut json = serde_json::Deserializer::from_str(text);
        let Decoded { keys, ids, columns, .. } = &mut *out;
        let (names, columns) = ([keys, ids], columns.as_mut_slice());
        let mut filling = Filling { fields: &self.fields, unit: self.unit, row: &mut self.row, names, columns };
        let object = Object { node: &self.root, filling: &mut filling, top: true };
        let read = object.deserialize(&mut json).and_then(|()| json.end());
        if let Err(error) = read {
            let path = self.row.reading.map_or(String::new(), |target| self.path(target));
            return Err(DecodeFault { path, ..syntax_fault(&error, text) });
        }
        if let Some((at, found)) = self.row.fault.take() {
            let path = match at {
                At::Target(target) => self.path(target),
                At::Parent(id) => self.parents[id].clone(),
            };
            return Err(DecodeFault { path, ..found });
        }
        if self.row.reread_time || self.row.names.iter().any(|(_, reread)| *reread) {
            self.read_digits(text, out)?;
        }
        self.fill_missing(&mut out.columns)
    }

    /// Takes a name or time that a float would change from the text itself.
    #[cold]
    fn read_digits(&mut self, text: &str, out: &mut Decoded) -> Result<(), DecodeFault> {
        for name in Name::ALL {
            if let ((_, true), Some(Key::Field(pointer))) = (self.row.names[name as usize], &self.names[name as usize])
            {
                let digits = reread::value_text(text, pointer).unwrap_or_default();
                name_digits(name, digits).map_err(|found| DecodeFault { path: pointer_text(pointer), ..found })?;
                out.name_mut(name).push(digits.as_bytes());
            }
        }
        if self.row.reread_time {
            let digits = reread::value_text(text, &self.time_pointer).unwrap_or_default();
            let time = time::seconds(digits);
            let beyond = || DecodeFault { path: pointer_text(&self.time_pointer), ..visit::time_beyond(digits) };
            self.row.time = Some(time.ok_or_else(beyond)?);
        }
        Ok(())
    }

    /// Follows "… is missing": what stands in the way to `pointer`, when something does.
    fn in_the_way(&self, pointer: &[String]) -> String {
        let path = pointer_text(pointer);
        let below = |id: usize| path.strip_prefix(self.parents[id].as_str())?.strip_prefix('/');
        let found = self.row.no_objects.iter().find_map(|&(id, what)| Some((&self.parents[id], below(id)?, what)));
        match found {
            None => String::new(),
            Some((at, _, NoObject::Scalar(what))) => format!("; `{at}` is {what}, expected an object"),
            Some((at, rest, NoObject::List(length))) => match rest.split('/').next().and_then(element) {
                Some(idx) if idx < length => String::new(),
                Some(_) => format!("; the list `{at}` has {length} elements, counted from 0"),
                None => format!("; `{at}` is a list, expected an object or the index of an element"),
            },
        }
    }

    /// Where in the event a target is.
    fn path(&self, target: Target) -> String {
        match target {
            Target::Name(name) => match &self.names[name as usize] {
                Some(Key::Field(pointer)) => pointer_text(pointer),
                _ => String::new(),
            },
            Target::Time => pointer_text(&self.time_pointer),
            Target::Field(idx) => pointer_text(&self.fields[idx].pointer),
        }
    }

    fn fill_missing(&mut self, columns: &mut [Column]) -> Result<(), DecodeFault> {
        for (idx, field) in self.fields.iter().enumerate() {
            if self.row.seen[idx] == Seen::Value {
                continue;
            }
            let column = &mut columns[idx];
            let row = column.len() as u32;
            if field.need == Need::Lenient && self.row.seen[idx] == Seen::Null {
                column.unlike.push(row);
            }
            if field.need == Need::Required {
                let message = format!(
                    "field `{}` is {}, expected {}{}",
                    field.name,
                    self.row.seen[idx].absent(),
                    field.kind.name(),
                    self.in_the_way(&field.pointer)
                );
                return Err(DecodeFault {
                    code: Code::FieldMissing,
                    stage: Some(field.stage),
                    path: pointer_text(&field.pointer),
                    message,
                });
            }
            column.missing.push(row);
            push_default(column);
        }
        Ok(())
    }

    fn take_name(
        &self,
        name: Name,
        subject: &[u8],
        headers: &[u8],
        rows: usize,
        out: &mut Decoded,
    ) -> Result<(), DecodeFault> {
        let Some(place) = &self.names[name as usize] else { return Ok(()) };
        let (word, names) = (name.word(), out.name_mut(name));
        let missing =
            |message: String, path: String| Err(DecodeFault { code: name.missing(), stage: None, path, message });
        match place {
            Key::Field(pointer) => {
                let (seen, _) = self.row.names[name as usize];
                if seen != Seen::Value || names.ends.len() == rows || names.get(rows).is_empty() {
                    let message = format!(
                        "the {word} is {}, expected a string or an integer{}",
                        seen.absent(),
                        self.in_the_way(pointer)
                    );
                    return missing(message, pointer_text(pointer));
                }
            }
            Key::Header(header_name) => match header(headers, header_name) {
                Some(value) if !value.is_empty() => names.push(value),
                _ => {
                    return missing(
                        format!("header `{header_name}` with the {word} is missing or empty"),
                        String::new(),
                    );
                }
            },
            Key::SubjectToken(idx) => match subject.split(|&byte| byte == b'.').nth(*idx as usize) {
                Some(token) if !token.is_empty() => names.push(token),
                _ => return missing(format!("subject has no token {idx} for the {word}"), String::new()),
            },
        }
        Ok(())
    }

    fn take_time(&self, published: i64) -> Result<EventTime, DecodeFault> {
        let path = || pointer_text(&self.time_pointer);
        let Some(time) = self.row.time else {
            let (absent, why) = (self.row.time_seen.absent(), self.in_the_way(&self.time_pointer));
            let message = format!("the event time is {absent}{why}");
            return Err(DecodeFault { code: Code::TimeMissing, stage: None, path: path(), message });
        };
        if time > published.saturating_add(self.max_future) {
            let ahead = crate::time::Span(time.saturating_sub(published));
            let message = format!(
                "event time {time} is {ahead} ahead of its arrival, limit {}",
                crate::time::Span(self.max_future)
            );
            return Err(DecodeFault { code: Code::TimeInFuture, stage: None, path: path(), message });
        }
        if time < published.saturating_sub(self.max_past) {
            let behind = crate::time::Span(published.saturating_sub(time));
            let message =
                format!("event time {time} is {behind} behind its arrival, limit {}", crate::time::Span(self.max_past));
            return Err(DecodeFault { code: Code::TimeTooOld, stage: None, path: path(), message });
        }
        Ok(EventTime(time))
    }
}

impl Seen {
    /// Of a value that is not there.
    fn absent(self) -> &'static str {
        match self {
            Seen::No => "missing",
            Seen::Null => "null",
            Seen::Value => "empty",
        }
    }
}

/// Numbers the nodes of a tree that is complete: the pointers of those with children, and a row for what is found.
fn begin(root: &mut Node, fields: usize) -> (Vec<String>, Row) {
    let mut parents = Vec::new();
    root.number(String::new(), &mut parents);
    let row = Row { seen: vec![Seen::No; fields], parents: vec![false; parents.len()], ..Row::default() };
    (parents, row)
}

fn too_large(bytes: u64, limit: u64) -> DecodeFault {
    fault(Code::PayloadSize, format!("payload has {bytes} bytes, limit {limit}"))
}

fn fault(code: Code, message: String) -> DecodeFault {
    DecodeFault { code, stage: None, path: String::new(), message }
}

/// RFC 6901 text of pointer segments.
#[must_use]
pub fn pointer_text(pointer: &[String]) -> String {
    pointer.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Whether the text of the value is wanted, not what it says.
fn is_written(field: &FieldRead) -> bool {
    matches!(field.kind, Kind::Decimal | Kind::Json)
}

fn roll_back(rows: usize, out: &mut Decoded) {
    truncate_text(&mut out.keys, rows);
    truncate_text(&mut out.ids, rows);
    for column in &mut out.columns {
        for listed in [&mut column.missing, &mut column.unlike] {
            while listed.last().is_some_and(|&row| row as usize >= rows) {
                listed.pop();
            }
        }
        match &mut column.values {
            Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
                truncate_text(texts, rows);
            }
            Values::Integers(values) => values.truncate(rows),
            Values::Numbers(values) => values.truncate(rows),
            Values::Booleans(values) => values.truncate(rows),
        }
    }
}

fn truncate_text(texts: &mut Strings, rows: usize) {
    texts.ends.truncate(rows);
    texts.data.truncate(texts.ends.last().map_or(0, |&end| end as usize));
}

fn push_default(column: &mut Column) {
    match &mut column.values {
        Values::Strings(texts) | Values::Decimals(texts) | Values::Jsons(texts) | Values::Blobs(texts) => {
            texts.push(b"")
        }
        Values::Integers(values) => values.push(0),
        Values::Numbers(values) => values.push(0.0),
        Values::Booleans(values) => values.push(false),
    }
}

/// The value of header `name` in a block of `name: value\r\n` lines.
fn header<'a>(block: &'a [u8], name: &str) -> Option<&'a [u8]> {
    block.split(|&byte| byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at(line.iter().position(|&byte| byte == b':')?);
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value[1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests;
