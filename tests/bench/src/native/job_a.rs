//! Job A: plays per user in windows of 1 h every 5 min, rows with more than 100.
//!
//! Five-minute panes and a rolling sum per user: two million counter updates instead of 24 million.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::lines::each_line;
use super::{Counts, DELAY_MS, Event, Intern, writer};

const HOP_MS: i64 = 300_000;
/// Panes of one window.
const PANES: i64 = 12;
/// Panes kept at a time: a window and those that out-of-order events may reach.
const SLOTS: usize = 16;
const OVER: u32 = 100;

/// Reads events from `input`, writes rows `user_id,window_end,count` to `output`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_a(input: &Path, output: &Path) -> io::Result<Counts> {
    let mut job = Job {
        out: writer(output)?,
        users: Intern::default(),
        panes: vec![Vec::new(); SLOTS],
        rolling: Vec::new(),
        next_end: i64::MIN,
        last_pane: i64::MIN,
        newest: i64::MIN,
        counts: Counts::default(),
    };
    each_line(input, |line| match Event::parse(line) {
        Some(event) => job.add(&event),
        None => Ok(()),
    })?;
    while job.next_end <= job.last_pane + PANES {
        job.fire()?;
    }
    job.out.flush()?;
    Ok(job.counts)
}

struct Job {
    out: BufWriter<File>,
    users: Intern,
    /// Per pane (modulo `SLOTS`) the plays of each user.
    panes: Vec<Vec<u32>>,
    /// Per user the plays in the window that ends at `next_end`.
    rolling: Vec<u32>,
    /// End of the next window to fire, in hops.
    next_end: i64,
    last_pane: i64,
    newest: i64,
    counts: Counts,
}

impl Job {
    #[inline]
    fn add(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.counts.events += 1;
        let pane = event.ts.div_euclid(HOP_MS);
        if self.next_end == i64::MIN {
            self.next_end = (event.ts - DELAY_MS).div_euclid(HOP_MS) + 1;
        }
        // Windows of this event end at pane+1 ..= pane+12; those below `next_end` have fired.
        let fired = (self.next_end - (pane + 1)).clamp(0, PANES);
        self.counts.late_pairs += fired as u64;
        if fired == PANES {
            self.counts.refused += 1;
        } else {
            self.count(&event.user_id, pane);
        }
        if event.ts > self.newest {
            self.newest = event.ts;
            while self.next_end * HOP_MS <= self.newest - DELAY_MS {
                self.fire()?;
            }
        }
        Ok(())
    }

    #[inline]
    fn count(&mut self, user_id: &str, pane: i64) {
        let user = self.users.get(user_id) as usize;
        if user >= self.rolling.len() {
            let size = (user + 1).next_power_of_two();
            self.rolling.resize(size, 0);
            for slot in &mut self.panes {
                slot.resize(size, 0);
            }
        }
        self.panes[slot_of(pane)][user] += 1;
        if pane < self.next_end {
            self.rolling[user] += 1;
        }
        self.last_pane = self.last_pane.max(pane);
    }

    fn fire(&mut self) -> io::Result<()> {
        let end = self.next_end;
        for (user, count) in self.rolling.iter().enumerate() {
            if *count > OVER {
                self.counts.rows += 1;
                writeln!(self.out, "{},{},{}", self.users.names[user], end * HOP_MS, count)?;
            }
        }
        for (sum, count) in self.rolling.iter_mut().zip(&mut self.panes[slot_of(end - PANES)]) {
            *sum -= *count;
            *count = 0;
        }
        for (sum, count) in self.rolling.iter_mut().zip(&self.panes[slot_of(end)]) {
            *sum += *count;
        }
        self.next_end = end + 1;
        Ok(())
    }
}

fn slot_of(pane: i64) -> usize {
    pane.rem_euclid(SLOTS as i64) as usize
}
