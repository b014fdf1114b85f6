//! Job B: plays of at least 30 s per track in windows of 1 min, all rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rustc_hash::FxHashMap;

use super::lines::each_line;
use super::{Counts, DELAY_MS, Event, Intern, writer};

const SIZE_MS: i64 = 60_000;
const LONG_MS: i64 = 30_000;

/// Reads events from `input`, writes rows `track_id,window_end,count` to `output`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_b(input: &Path, output: &Path) -> io::Result<Counts> {
    let mut job = Job {
        out: writer(output)?,
        tracks: Intern::default(),
        windows: BTreeMap::new(),
        newest: i64::MIN,
        counts: Counts::default(),
    };
    each_line(input, |line| match Event::parse(line) {
        Some(event) => job.add(&event),
        None => Ok(()),
    })?;
    for (end, counts) in std::mem::take(&mut job.windows) {
        job.fire(end, &counts)?;
    }
    job.out.flush()?;
    Ok(job.counts)
}

struct Job {
    out: BufWriter<File>,
    tracks: Intern,
    /// Per window end, in minutes, the plays of each track.
    windows: BTreeMap<i64, FxHashMap<u32, u32>>,
    newest: i64,
    counts: Counts,
}

impl Job {
    #[inline]
    fn add(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.counts.events += 1;
        // A short play counts nowhere, but it moves the watermark.
        if event.ms_played >= LONG_MS {
            let end = event.ts.div_euclid(SIZE_MS) + 1;
            if end * SIZE_MS <= self.newest.saturating_sub(DELAY_MS) {
                self.counts.refused += 1;
            } else {
                let track = self.tracks.get(&event.track_id);
                *self.windows.entry(end).or_default().entry(track).or_insert(0) += 1;
            }
        }
        if event.ts > self.newest {
            self.newest = event.ts;
            while let Some(first) = self.windows.first_entry() {
                if first.key() * SIZE_MS > self.newest - DELAY_MS {
                    break;
                }
                let (end, counts) = first.remove_entry();
                self.fire(end, &counts)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, end: i64, counts: &FxHashMap<u32, u32>) -> io::Result<()> {
        for (track, count) in counts {
            self.counts.rows += 1;
            writeln!(self.out, "{},{},{}", self.tracks.names[*track as usize], end * SIZE_MS, count)?;
        }
        Ok(())
    }
}
