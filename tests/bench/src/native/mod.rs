//! The jobs written by hand for one thread: the limit that a general engine is measured against.
//!
//! Typed serde_json over borrowed lines, no state on disk, no recovery. Rows are CSV lines.

mod job_a;
mod job_b;
mod job_c;
mod job_d;
mod lines;
mod tumbling;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use rustc_hash::FxHashMap;
use serde::Deserialize;

pub use job_a::job_a;
pub use job_b::job_b;
pub use job_c::job_c;
pub use job_d::job_d;

/// How far the watermark stays behind the newest event.
pub const DELAY_MS: i64 = 120_000;

/// What a job counted, printed by the yardstick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines that are events of the job's shape.
    pub events: u64,
    /// Rows written; for job C the valid lines.
    pub rows: u64,
    /// Events in no window at all; for job C the invalid lines.
    pub refused: u64,
    /// (event, window) pairs that came too late.
    pub late_pairs: u64,
}

/// The six fields; all are read, so that each job pays for the same decoding.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    track_id: Cow<'a, str>,
    #[serde(borrow)]
    country: Cow<'a, str>,
    #[serde(borrow)]
    device: Cow<'a, str>,
    ts: i64,
    ms_played: i64,
}

impl Event<'_> {
    fn parse(line: &[u8]) -> Option<Event<'_>> {
        serde_json::from_slice(line).ok()
    }
}

/// Small numbers for strings.
#[derive(Default)]
struct Intern {
    ids: FxHashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
}

impl Intern {
    #[inline]
    fn get(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.ids.insert(name.into(), id);
        self.names.push(name.into());
        id
    }
}

fn writer(path: &Path) -> io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 20, File::create(path)?))
}
