//! Job C: check six fields of each line; the line goes unchanged to one of two files.

use std::io::{self, Write};
use std::path::Path;

use super::lines::each_line;
use super::{Counts, Event, writer};

/// Reads lines from `input`, writes the valid ones to `valid` and the others to `dead`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job_c(input: &Path, valid: &Path, dead: &Path) -> io::Result<Counts> {
    let (mut valid, mut dead) = (writer(valid)?, writer(dead)?);
    let mut counts = Counts::default();
    each_line(input, |line| {
        counts.events += 1;
        let good = Event::parse(line).is_some_and(|event| event.ms_played >= 0);
        let out = if good {
            counts.rows += 1;
            &mut valid
        } else {
            counts.refused += 1;
            &mut dead
        };
        out.write_all(line)?;
        out.write_all(b"\n")
    })?;
    valid.flush()?;
    dead.flush()?;
    Ok(counts)
}
