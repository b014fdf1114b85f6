//! A checked pipeline: what a pipeline file means once every problem in it is gone.
//!
//! The way: [`parse`] turns the text into a [`Draft`], the host loads the modules that the draft names, and
//! [`Draft::bind`] checks it against their descriptors. Both steps collect all problems, with their place in the file.
//! Only a [`Plan`] travels further.
//!
//! `raw` reads typed values out of the text, `lower` knows the tables of a pipeline file, `bind` knows the modules,
//! `reads` lists the fields that the decoder reads.

mod bind;
mod draft;
mod lower;
mod raw;
mod reads;
#[cfg(test)]
mod tests;

pub use draft::{Draft, DraftStage};
pub use lower::parse;
pub use raw::size_parse;

pub(crate) use self::reads::declared;
use crate::event::{Field, Kind, Need};
use crate::time::Span;

/// A pipeline that is correct by construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    pub source: Source,
    /// A tree: each reads the source, or a transform before it.
    pub stages: Vec<Stage>,
    pub outputs: Vec<Output>,
    pub limits: Limits,
}

impl Plan {
    /// The first stage that reads what comes out of the first port of `stage`.
    #[must_use]
    pub fn reader_of(&self, stage: usize) -> Option<usize> {
        self.stages.iter().position(|other| other.from == Some(stage))
    }

    /// Whether what `stage` gives reaches `later`, directly or through other stages.
    #[must_use]
    pub fn is_behind(&self, later: usize, stage: usize) -> bool {
        std::iter::successors(self.stages[later].from, |&from| self.stages[from].from).any(|from| from == stage)
    }
}

/// Where events come from and how to read key and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub stream: String,
    /// Contains `{partition}` when there is more than one partition.
    pub subject: String,
    pub partitions: u32,
    /// Whether `pelton up` creates the stream when it is missing, and from which subjects it ingests.
    pub create: Option<CreateStream>,
    pub key: Key,
    pub time: Time,
    pub watermark: Watermark,
    pub order: EventOrder,
    pub dedupe: Option<Dedupe>,
    /// Fields that are not found under their own name: field name → JSON pointer segments.
    pub fields: Vec<(String, Vec<String>)>,
}

/// How `pelton up` makes the input stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateStream {
    /// Subject that producers publish to; `None` means the partition subjects themselves.
    /// With partitions, the last token is the key and JetStream maps it with `partition(n, token)`.
    pub ingest: Option<String>,
    pub max_age: Option<Span>,
    pub max_bytes: Option<u64>,
}

/// What identifies the thing an event is about, or the event itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A string or integer of the event: JSON pointer segments.
    Field(Vec<String>),
    Header(String),
    /// Token of the subject, from 0.
    SubjectToken(u32),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Field(pointer) => write!(f, "field {}", raw::pointer_text(pointer)),
            Key::Header(name) => write!(f, "header {name}"),
            Key::SubjectToken(token) => write!(f, "subject token {token}"),
        }
    }
}

/// Where event time is and in which unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Time {
    /// JSON pointer segments.
    pub field: Vec<String>,
    pub unit: TimeUnit,
}

/// Unit of an integer timestamp, or RFC 3339 string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
    Rfc3339,
}

/// The order in which stages see events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventOrder {
    /// As they come.
    #[default]
    Arrival,
    /// By event time: each is held until the watermark has passed it.
    EventTime,
}

/// Which events are repetitions of others with the same key: they have no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Where the id is that tells events of one key apart.
    pub id: Key,
    /// An id is remembered until the watermark has passed the time of its first event by this much.
    pub ttl: Span,
}

/// When a partition's time moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Bounded out-of-orderness: how far the watermark stays behind the newest event.
    pub delay: Span,
    /// After this long without an event, the watermark advances with the wall clock.
    pub idle_timeout: Option<Span>,
    /// An event further ahead of its arrival than this is a dead letter and moves nothing.
    pub max_future: Span,
    /// An event further behind its arrival than this is a dead letter (seconds taken for milliseconds).
    pub max_past: Span,
}

/// One module with its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub name: String,
    /// The stage whose first port it reads, which comes before it; `None`: the source.
    pub from: Option<usize>,
    /// Path of the module, as written.
    pub module: String,
    /// JSON text.
    pub config: String,
    /// Present exactly for window rules and window folds.
    pub window: Option<Window>,
    /// Of a reducer: what it keeps of a key goes when the watermark has passed the key's newest event by this much.
    pub ttl: Option<Span>,
}

/// Which windows an event falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub kind: WindowKind,
    /// How long after its end a window still takes events, each firing a correction.
    pub allowed_lateness: Span,
}

/// The shape of windows. Starts are multiples of `size` or `slide` since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    Tumbling {
        size: Span,
    },
    /// `slide` divides `size`.
    Sliding {
        size: Span,
        slide: Span,
    },
    /// One window that ends with the input.
    Global,
}

/// One named output of the pipeline.
///
/// An output is one port of one stage, and no two outputs share one. Port 0 of a stage that is not the last feeds the
/// next stage. Records of any other port that no output takes are dropped and counted as filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// Index into `Plan::stages`.
    pub stage: usize,
    /// Port of that stage.
    pub port: u8,
    /// Where the server copies the output to from the pipeline stream.
    pub stream: Option<OutputStream>,
}

/// An output stream, which the server fills from the pipeline stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputStream {
    /// Optionally with `{key}`.
    pub subject: String,
    pub name: String,
}

/// Bounds; every one has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of one guest call.
    pub call_timeout: Span,
    pub fuel_per_event: u64,
    /// Linear memory of one guest instance, bytes.
    pub memory: u64,
    /// Bytes a guest may return from one call.
    pub reply_bytes: u64,
    /// Typed hot state of one partition, bytes; beyond it the partition halts (`state-limit`).
    pub state: u64,
    /// Largest payload that is decoded, bytes; a larger one is a dead letter.
    pub max_payload: u64,
    /// State bytes of one key, bytes.
    pub state_per_key: u64,
    /// Events per epoch at most.
    pub epoch_max_events: u32,
    /// Age of an epoch at which it is cut.
    pub epoch_max_age: Span,
    /// What modules may look like, and what compiling them may take.
    pub shape: Shape,
}

impl Limits {
    /// What modules may make of events before it is handed on: as much as four replies, and no less than 32 MiB.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.reply_bytes.saturating_mul(4).max(32 << 20)
    }
}

/// What kind of module the bounds of its bytes and of its compilation are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Machine code of its own, as of Rust, C or Go.
    Compiled,
    /// An interpreter with the program it runs, as of Python or JavaScript.
    Interpreter,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            call_timeout: Span(100),
            fuel_per_event: 10_000_000,
            memory: 64 << 20,
            reply_bytes: 8 << 20,
            state: 2 << 30,
            max_payload: 1 << 20,
            state_per_key: 64 << 10,
            epoch_max_events: 16_384,
            epoch_max_age: Span(50),
            shape: Shape::Compiled,
        }
    }
}

/// A field that the decoder reads for some stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRead {
    pub name: String,
    pub pointer: Vec<String>,
    pub kind: Kind,
    pub need: Need,
    /// First stage that declares it.
    pub stage: usize,
}

impl FieldRead {
    /// Whether it is what a module has declared so. What is read leniently has a column of its own, one for each kind.
    #[must_use]
    pub fn is_for(&self, field: &Field) -> bool {
        let is_lenient = self.need == Need::Lenient;
        self.name == field.name
            && is_lenient == (field.need == Need::Lenient)
            && (!is_lenient || self.kind == field.kind)
    }
}
