//! Job D: different users and the ten most frequent countries per device in windows of 1 h.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};

use super::lines::each_line;
use super::{Counts, DELAY_MS, Event, Intern, writer};

const SIZE_MS: i64 = 3_600_000;
const TOP: usize = 10;

/// Reads events from `input`, writes rows `device,window_end,users` and `device/country,window_end,plays` to `output`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_d(input: &Path, output: &Path) -> io::Result<Counts> {
    let mut job = Job {
        out: writer(output)?,
        names: Intern::default(),
        windows: BTreeMap::new(),
        newest: i64::MIN,
        counts: Counts::default(),
    };
    each_line(input, |line| match Event::parse(line) {
        Some(event) => job.add(&event),
        None => Ok(()),
    })?;
    for (end, devices) in std::mem::take(&mut job.windows) {
        job.fire(end, &devices)?;
    }
    job.out.flush()?;
    Ok(job.counts)
}

struct Job {
    out: BufWriter<File>,
    names: Intern,
    /// Per window end, in hours, what each device has.
    windows: BTreeMap<i64, FxHashMap<u32, Audience>>,
    newest: i64,
    counts: Counts,
}

#[derive(Default)]
struct Audience {
    users: FxHashSet<u32>,
    countries: FxHashMap<u32, u32>,
}

impl Job {
    #[inline]
    fn add(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.counts.events += 1;
        let end = event.ts.div_euclid(SIZE_MS) + 1;
        if end * SIZE_MS <= self.newest.saturating_sub(DELAY_MS) {
            self.counts.refused += 1;
        } else {
            let device = self.names.get(&event.device);
            let audience = self.windows.entry(end).or_default().entry(device).or_default();
            audience.users.insert(self.names.get(&event.user_id));
            *audience.countries.entry(self.names.get(&event.country)).or_insert(0) += 1;
        }
        if event.ts > self.newest {
            self.newest = event.ts;
            while let Some(first) = self.windows.first_entry() {
                if first.key() * SIZE_MS > self.newest - DELAY_MS {
                    break;
                }
                let (end, devices) = first.remove_entry();
                self.fire(end, &devices)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, end: i64, devices: &FxHashMap<u32, Audience>) -> io::Result<()> {
        let (names, end) = (&self.names.names, end * SIZE_MS);
        for (device, audience) in devices {
            let device = &names[*device as usize];
            writeln!(self.out, "{device},{end},{}", audience.users.len())?;
            let mut countries: Vec<_> = audience
                .countries
                .iter()
                .map(|(country, count)| (Reverse(*count), &names[*country as usize]))
                .collect();
            countries.sort_unstable();
            countries.truncate(TOP);
            for (Reverse(count), country) in &countries {
                writeln!(self.out, "{device}/{country},{end},{count}")?;
            }
            self.counts.rows += 1 + countries.len() as u64;
        }
        Ok(())
    }
}
