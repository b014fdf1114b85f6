//! Job D: different users and the ten most frequent countries per device in windows of 1 h.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};

use super::lines::each_line;
use super::tumbling::Tumbling;
use super::{Counts, Event, Intern, writer};

const SIZE_MS: i64 = 3_600_000;
const TOP: usize = 10;

/// Reads events from `input`, writes rows `device,window_end,users` and `device/country,window_end,plays` to `output`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_d(input: &Path, output: &Path) -> io::Result<Counts> {
    let mut windows = Tumbling::new(SIZE_MS);
    let mut job = Job { out: writer(output)?, names: Intern::default(), counts: Counts::default() };
    each_line(input, |line| match Event::parse(line) {
        Some(event) => job.add(&mut windows, &event),
        None => Ok(()),
    })?;
    while let Some((end, devices)) = windows.pop() {
        job.fire(end, &devices)?;
    }
    job.out.flush()?;
    Ok(job.counts)
}

/// What each device has.
type Devices = FxHashMap<u32, Audience>;

#[derive(Default)]
struct Audience {
    users: FxHashSet<u32>,
    countries: FxHashMap<u32, u32>,
}

struct Job {
    out: BufWriter<File>,
    names: Intern,
    counts: Counts,
}

impl Job {
    #[inline]
    fn add(&mut self, windows: &mut Tumbling<Devices>, event: &Event<'_>) -> io::Result<()> {
        self.counts.events += 1;
        match windows.at(event.ts) {
            Some(devices) => {
                let audience = devices.entry(self.names.get(&event.device)).or_default();
                audience.users.insert(self.names.get(&event.user_id));
                *audience.countries.entry(self.names.get(&event.country)).or_insert(0) += 1;
            }
            None => self.counts.refused += 1,
        }
        if windows.observe(event.ts) {
            while let Some((end, devices)) = windows.pop_passed() {
                self.fire(end, &devices)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, end: i64, devices: &Devices) -> io::Result<()> {
        let names = &self.names.names;
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
