//! Job B: plays of at least 30 s per track in windows of 1 min, all rows.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rustc_hash::FxHashMap;

use super::lines::each_line;
use super::tumbling::Tumbling;
use super::{Counts, Event, Intern, writer};

const SIZE_MS: i64 = 60_000;
const LONG_MS: i64 = 30_000;

/// Reads events from `input`, writes rows `track_id,window_end,count` to `output`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_b(input: &Path, output: &Path) -> io::Result<Counts> {
    let mut windows = Tumbling::new(SIZE_MS);
    let mut job = Job { out: writer(output)?, tracks: Intern::default(), counts: Counts::default() };
    each_line(input, |line| match Event::parse(line) {
        Some(event) => job.add(&mut windows, &event),
        None => Ok(()),
    })?;
    while let Some((end, plays)) = windows.pop() {
        job.fire(end, &plays)?;
    }
    job.out.flush()?;
    Ok(job.counts)
}

/// The plays of each track.
type Plays = FxHashMap<u32, u32>;

struct Job {
    out: BufWriter<File>,
    tracks: Intern,
    counts: Counts,
}

impl Job {
    #[inline]
    fn add(&mut self, windows: &mut Tumbling<Plays>, event: &Event<'_>) -> io::Result<()> {
        self.counts.events += 1;
        // A short play counts nowhere, but it moves the watermark.
        if event.ms_played >= LONG_MS {
            match windows.at(event.ts) {
                Some(plays) => *plays.entry(self.tracks.get(&event.track_id)).or_insert(0) += 1,
                None => self.counts.refused += 1,
            }
        }
        if windows.observe(event.ts) {
            while let Some((end, plays)) = windows.pop_passed() {
                self.fire(end, &plays)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, end: i64, plays: &Plays) -> io::Result<()> {
        for (track, count) in plays {
            self.counts.rows += 1;
            writeln!(self.out, "{},{end},{count}", self.tracks.names[*track as usize])?;
        }
        Ok(())
    }
}
