//! JSON events into typed columns: each event is parsed once, and only its wanted fields are looked at.
//!
//! What is decided here on purpose:
//! - The payload must be UTF-8 and one JSON object; text after the object is a syntax error.
//! - A wanted field that occurs twice is refused, even as `null`; other fields are skipped without being checked
//!   beyond syntax: `1e400` or half a surrogate pair in them is nobody's business.
//! - `null` is the same as missing. `1.0` is the integer 1, up to 2^53 - 1 in magnitude; `1.5` and integers beyond
//!   64 bits (signed) are not integers. An integer is a number. A wanted `1e400` is refused.
//! - An event that is not JSON at all is refused as such, whatever its fields held up to there.
//! - The key may be a text or an integer (its decimal digits); an empty key is missing.

mod stored;
mod visit;

use serde::de::DeserializeSeed;

use crate::effects::{key_text, key_token};
use crate::event::{Column, RawEvent, TextColumn, Values};
use crate::plan::{FieldRead, Key, Source, TimeUnit};
use crate::time::EventTime;
use visit::Object;

/// Why an event cannot be read: becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFault {
    pub code: &'static str,
    /// Stage that declared the field, `None` for what the source itself needs.
    pub stage: Option<usize>,
    /// JSON pointer of the field at fault; empty for the whole event.
    pub path: String,
    pub message: String,
}

/// Decoded rows: what stages read.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    pub keys: TextColumn,
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

    /// Empties all columns and keeps their allocations.
    pub fn clear(&mut self) {
        self.keys.data.clear();
        self.keys.ends.clear();
        self.timestamps.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}

/// Where a wanted value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Key,
    Time,
    Field(usize),
}

/// One level of wanted names.
#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<(String, Node)>,
    targets: Vec<Target>,
}

/// Reads events of one source for the fields of all its stages.
pub struct Decoder {
    root: Node,
    fields: Vec<FieldRead>,
    key: Key,
    time_pointer: Vec<String>,
    unit: TimeUnit,
    max_future: i64,
    max_past: i64,
    payload_max: u64,
    /// Where the broker puts each key, when it is the one that does.
    place: Option<KeyPlace>,
    row: Row,
}

/// The partition that is read, of how many: keys come here because the broker maps the last token of the subject that
/// producers publish to, and that token has to be the key.
#[derive(Clone, Copy, Debug)]
struct KeyPlace {
    partition: u32,
    partitions: u32,
}

/// What the visitor has found in the event at hand.
#[derive(Default)]
struct Row {
    seen: Vec<Seen>,
    time: Option<i64>,
    time_seen: Seen,
    key_seen: Seen,
    fault: Option<(Target, DecodeFault)>,
    /// The target that is being read: where a syntax error is when reading stops.
    reading: Option<Target>,
}

/// Whether a wanted field has occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    No,
    Null,
    Value,
}

impl Decoder {
    /// A decoder for `source` that fills one column per entry of `fields`.
    #[must_use]
    pub fn new(source: &Source, fields: Vec<FieldRead>, payload_max: u64) -> Decoder {
        let mut root = Node::default();
        if let Key::Field(pointer) = &source.key {
            root.want(pointer, Target::Key);
        }
        root.want(&source.time.field, Target::Time);
        for (idx, field) in fields.iter().enumerate() {
            root.want(&field.pointer, Target::Field(idx));
        }
        let row = Row { seen: vec![Seen::No; fields.len()], ..Row::default() };
        Decoder {
            root,
            place: None,
            key: source.key.clone(),
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
            root.want(&field.pointer, Target::Field(idx));
        }
        let row = Row { seen: vec![Seen::No; fields.len()], ..Row::default() };
        Decoder {
            root,
            place: None,
            key: Key::SubjectToken(0),
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
            return Err(fault("header", stored::what_is_wrong(headers)));
        }
        let rows = out.len();
        let result = self.read(payload, &mut out.keys, &mut out.columns).and_then(|()| {
            self.take_key(subject, headers, rows, &mut out.keys)?;
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
                roll_back(rows, &mut out.keys, &mut out.columns);
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
            return Err(fault("time-range", format!("the record's time {time} is out of range")));
        }
        let rows = out.len();
        match self.read(payload, &mut out.keys, &mut out.columns) {
            Ok(()) => {
                out.keys.push(key);
                out.timestamps.push(time);
                Ok(())
            }
            Err(fault) => {
                roll_back(rows, &mut out.keys, &mut out.columns);
                Err(fault)
            }
        }
    }

    fn read(&mut self, payload: &[u8], keys: &mut TextColumn, columns: &mut [Column]) -> Result<(), DecodeFault> {
        if payload.len() as u64 > self.payload_max {
            let message = format!("payload has {} bytes, limit {}", payload.len(), self.payload_max);
            return Err(fault("payload-size", message));
        }
        let text = std::str::from_utf8(payload)
            .map_err(|error| fault("json-utf8", format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
        self.row.seen.fill(Seen::No);
        (self.row.time, self.row.time_seen, self.row.key_seen) = (None, Seen::No, Seen::No);
        (self.row.fault, self.row.reading) = (None, None);
        let mut json = serde_json::Deserializer::from_str(text);
        let object = Object {
            node: &self.root,
            fields: &self.fields,
            unit: self.unit,
            row: &mut self.row,
            keys,
            columns,
            top: true,
        };
        let read = object.deserialize(&mut json).and_then(|()| json.end());
        if let Err(error) = read {
            let path = self.row.reading.map_or(String::new(), |target| self.path(target));
            return Err(DecodeFault { path, ..syntax_fault(&error, text) });
        }
        if let Some((target, found)) = self.row.fault.take() {
            return Err(DecodeFault { path: self.path(target), ..found });
        }
        self.fill_missing(columns)
    }

    /// Where in the event a target is.
    fn path(&self, target: Target) -> String {
        match (target, &self.key) {
            (Target::Key, Key::Field(pointer)) => pointer_text(pointer),
            (Target::Key, _) => String::new(),
            (Target::Time, _) => pointer_text(&self.time_pointer),
            (Target::Field(idx), _) => pointer_text(&self.fields[idx].pointer),
        }
    }

    fn fill_missing(&mut self, columns: &mut [Column]) -> Result<(), DecodeFault> {
        for (idx, field) in self.fields.iter().enumerate() {
            if self.row.seen[idx] == Seen::Value {
                continue;
            }
            if field.required {
                let message = format!("field `{}` is missing, expected {}", field.name, field.kind.name());
                return Err(DecodeFault {
                    code: "field-missing",
                    stage: Some(field.stage),
                    path: pointer_text(&field.pointer),
                    message,
                });
            }
            let column = &mut columns[idx];
            column.missing.push(column.len() as u32);
            push_default(column);
        }
        Ok(())
    }

    fn take_key(&self, subject: &[u8], headers: &[u8], rows: usize, keys: &mut TextColumn) -> Result<(), DecodeFault> {
        let missing =
            |what: String, path: String| Err(DecodeFault { code: "key-missing", stage: None, path, message: what });
        match &self.key {
            Key::Field(pointer) => {
                if self.row.key_seen != Seen::Value || keys.ends.len() == rows || keys.get(rows).is_empty() {
                    return missing("the key field is missing or empty".into(), pointer_text(pointer));
                }
            }
            Key::Header(name) => match header(headers, name) {
                Some(value) if !value.is_empty() => keys.push(value),
                _ => return missing(format!("header `{name}` with the key is missing or empty"), String::new()),
            },
            Key::SubjectToken(idx) => match subject.split(|&byte| byte == b'.').nth(*idx as usize) {
                Some(token) if !token.is_empty() => keys.push(token),
                _ => return missing(format!("subject has no token {idx} for the key"), String::new()),
            },
        }
        Ok(())
    }

    fn take_time(&self, published: i64) -> Result<EventTime, DecodeFault> {
        let path = || pointer_text(&self.time_pointer);
        let Some(time) = self.row.time else {
            let message = "the time field is missing".to_string();
            return Err(DecodeFault { code: "time-missing", stage: None, path: path(), message });
        };
        if time > published.saturating_add(self.max_future) {
            let ahead = crate::time::Span(time.saturating_sub(published));
            let message = format!(
                "event time {time} is {ahead} ahead of its arrival, limit {}",
                crate::time::Span(self.max_future)
            );
            return Err(DecodeFault { code: "time-future", stage: None, path: path(), message });
        }
        if time < published.saturating_sub(self.max_past) {
            let behind = crate::time::Span(published.saturating_sub(time));
            let message =
                format!("event time {time} is {behind} behind its arrival, limit {}", crate::time::Span(self.max_past));
            return Err(DecodeFault { code: "time-past", stage: None, path: path(), message });
        }
        Ok(EventTime(time))
    }
}

impl KeyPlace {
    /// Refuses a key that the broker would have put into another partition. Keys that are no token of a subject as they
    /// are stay unjudged: how a producer writes them into one is its own affair.
    fn check(self, key: &[u8]) -> Result<(), DecodeFault> {
        let own = partition_of(key, self.partitions);
        if own == self.partition
            || !is_token(key)
            || partition_of(key_token(key).as_bytes(), self.partitions) == self.partition
        {
            return Ok(());
        }
        let KeyPlace { partition, .. } = self;
        let key = key_text(key);
        let message = format!(
            "key `{key}` belongs to partition {own}, and came to {partition}: the last token of its subject was not the key"
        );
        Err(fault("key-partition", message))
    }
}

/// The partition that JetStream's `partition(n, token)` chooses: 32-bit FNV-1a, modulo n.
#[must_use]
pub fn partition_of(token: &[u8], partitions: u32) -> u32 {
    token.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) % partitions
}

/// Whether every producer writes a key the same way into a subject: as it is.
fn is_token(key: &[u8]) -> bool {
    !key.is_empty() && key.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>'))
}

impl Node {
    fn want(&mut self, pointer: &[String], target: Target) {
        match pointer.split_first() {
            None => self.targets.push(target),
            Some((name, rest)) => {
                let idx = self.children.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    self.children.push((name.clone(), Node::default()));
                    self.children.len() - 1
                });
                self.children[idx].1.want(rest, target);
            }
        }
    }
}

fn fault(code: &'static str, message: String) -> DecodeFault {
    DecodeFault { code, stage: None, path: String::new(), message }
}

fn syntax_fault(error: &serde_json::Error, text: &str) -> DecodeFault {
    if text.trim_start().as_bytes().first().is_some_and(|&byte| byte != b'{') && error.is_data() {
        return fault("json-not-object", "the event is not a JSON object".into());
    }
    let message = error.to_string();
    let code = match () {
        () if message.starts_with("recursion limit") => "json-depth",
        () if message.starts_with("number out of range") => "json-number",
        () => "json-syntax",
    };
    fault(code, message)
}

/// RFC 6901 text of pointer segments.
#[must_use]
pub fn pointer_text(pointer: &[String]) -> String {
    pointer.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

fn roll_back(rows: usize, keys: &mut TextColumn, columns: &mut [Column]) {
    truncate_text(keys, rows);
    for column in columns {
        while column.missing.last().is_some_and(|&row| row as usize >= rows) {
            column.missing.pop();
        }
        match &mut column.values {
            Values::Text(texts) => truncate_text(texts, rows),
            Values::Integers(values) => values.truncate(rows),
            Values::Numbers(values) => values.truncate(rows),
            Values::Booleans(values) => values.truncate(rows),
        }
    }
}

fn truncate_text(texts: &mut TextColumn, rows: usize) {
    texts.ends.truncate(rows);
    texts.data.truncate(texts.ends.last().map_or(0, |&end| end as usize));
}

fn push_default(column: &mut Column) {
    match &mut column.values {
        Values::Text(texts) => texts.push(b""),
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
