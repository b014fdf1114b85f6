//! What is committed of the inputs: which they are, how far they were read, and what is checked when a run goes on.

use pelton_engine::time::WallTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::list::Inputs;
use super::open::Moments;
use crate::cli::failure::Failure;
use crate::cli::when;
use crate::run::START_OVER;

/// Names that are kept to tell later what has changed, bytes; of longer lists only the digest is kept.
const NAMES_BYTES_MAX: usize = 64 << 10;
/// Names in one message.
const NAMED: usize = 3;

/// How far the inputs were read; part of the record of each epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::run) struct InputProgress {
    /// The inputs: their number, a digest of what they are known by, and their names unless there are too many.
    count: usize,
    digest: String,
    names: Vec<String>,
    /// The input at hand, by its place in the list, and the number of lines in all inputs before it.
    file: usize,
    lines_before: u64,
    /// Where the last committed line begins in the content of that input, and where it ends; both 0 before its first one.
    line_start: u64,
    offset: u64,
    /// When the first run began, milliseconds since the Unix epoch.
    began_ms: i64,
    /// When the last committed line arrived: after a kill it has to be recognised by it.
    arrival_ms: i64,
    /// A chained digest of the lengths of all inputs before this one: what was appended to them would be passed over.
    lengths: String,
    /// The length of the last input when its end was reached, which has closed all windows.
    end: Option<u64>,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) file: usize,
    /// Where the last committed line begins and ends in the content of that input.
    pub(super) line_start: u64,
    pub(super) offset: u64,
    pub(super) moments: Moments,
}

impl InputProgress {
    /// Nothing was read yet.
    pub(in crate::run) fn fresh(inputs: &Inputs) -> InputProgress {
        let mut progress = InputProgress {
            count: 0,
            digest: String::new(),
            names: Vec::new(),
            file: 0,
            lines_before: 0,
            line_start: 0,
            offset: 0,
            began_ms: when::now(),
            arrival_ms: 0,
            lengths: String::new(),
            end: None,
        };
        progress.identify(inputs);
        progress
    }

    fn identify(&mut self, inputs: &Inputs) {
        self.count = inputs.list.len();
        self.digest = digest(inputs, self.count);
        let names = inputs.list.iter().map(|one| one.identity.display().to_string());
        let bytes: usize = inputs.list.iter().map(|one| one.identity.as_os_str().len() + 4).sum();
        self.names = if bytes <= NAMES_BYTES_MAX { names.collect() } else { Vec::new() };
    }

    /// The input at hand.
    pub(in crate::run) fn file(&self) -> usize {
        self.file
    }

    /// Lines in the inputs before it.
    pub(in crate::run) fn lines_before(&self) -> u64 {
        self.lines_before
    }

    /// When the first run began, milliseconds since the Unix epoch.
    pub(in crate::run) fn began_ms(&self) -> i64 {
        self.began_ms
    }

    pub(super) fn start(&self) -> Start {
        let (began, arrival) = (WallTime(self.began_ms), WallTime(self.arrival_ms));
        let moments = Moments { began, last: WallTime(began.0.max(arrival.0)) };
        Start { file: self.file, line_start: self.line_start, offset: self.offset, moments }
    }

    /// When the last committed line arrived.
    pub(super) fn arrival_ms(&self) -> i64 {
        self.arrival_ms
    }

    /// Takes lines into account: the last one begins and ends there.
    pub(in crate::run) fn take(&mut self, line_start: u64, offset: u64) {
        (self.line_start, self.offset) = (line_start, offset);
    }

    /// The offset behind the last line that was taken.
    pub(in crate::run) fn offset(&self) -> u64 {
        self.offset
    }

    /// The last line that was taken has arrived then; zero when none was taken since the start of this process.
    pub(in crate::run) fn arrived(&mut self, at: WallTime) {
        if at != WallTime::default() {
            self.arrival_ms = at.0;
        }
    }

    /// The input at hand has ended after `bytes` stored bytes, at line `line` of all; the next one begins.
    pub(in crate::run) fn next_file(&mut self, bytes: u64, line: u64) {
        self.lengths = chain(&self.lengths, bytes);
        self.file += 1;
        self.lines_before = line;
        (self.line_start, self.offset) = (0, 0);
    }

    /// The last input has ended after `bytes` stored bytes.
    pub(in crate::run) fn ended(&mut self, bytes: u64) {
        self.end = Some(bytes);
    }

    /// Whether the inputs are still those that were read. Further ones behind them are taken up, unless the end was
    /// reached before.
    ///
    /// # Errors
    /// When they are others, or what was read of them has changed its length.
    pub(in crate::run) fn check(&mut self, inputs: &Inputs) -> Result<(), Failure> {
        let found = inputs.list.len();
        if found < self.count || digest(inputs, self.count) != self.digest {
            return Err(self.others(inputs));
        }
        self.check_lengths(inputs)?;
        self.check_end(inputs)?;
        if found > self.count {
            let added = names(inputs.list[self.count..].iter().map(|one| one.name()).collect());
            if self.end.is_some() {
                let message = format!(
                    "{added} came after the run had reached the end of its inputs, which has closed all windows"
                );
                return Err(Failure::halted(message).hint(START_OVER));
            }
            info!(inputs = added, "taking up what came behind the inputs of the run before");
            self.identify(inputs);
        }
        Ok(())
    }

    /// What was read before the input at hand has to have the length that it had.
    fn check_lengths(&self, inputs: &Inputs) -> Result<(), Failure> {
        let mut lengths = String::new();
        for one in &inputs.list[..self.file] {
            // What lives has no length; its end was the end of what it gave.
            let bytes = match one.is_file() {
                true => one.path.metadata().map_err(|error| one.unreadable(error))?.len(),
                false => 0,
            };
            lengths = chain(&lengths, bytes);
        }
        if lengths == self.lengths {
            return Ok(());
        }
        let written = |idx: &usize| inputs.list[*idx].path.metadata().and_then(|meta| meta.modified()).ok();
        let newest = (0..self.file).filter(|idx| inputs.list[*idx].is_file()).max_by_key(written);
        let newest = newest.map_or_else(String::new, |idx| format!("; {} was written last", inputs.list[idx].name()));
        let message =
            format!("one of the {} inputs that were read to their end has another length now{newest}", self.file);
        Err(Failure::halted(message).hint(START_OVER))
    }

    /// Whether the last input still ends where it ended: nothing can come after the end of all.
    fn check_end(&self, inputs: &Inputs) -> Result<(), Failure> {
        let (Some(end), Some(one)) = (self.end, inputs.list.get(self.file)) else { return Ok(()) };
        if !one.is_file() {
            return Ok(());
        }
        let found = one.path.metadata().map_err(|error| one.unreadable(error))?.len();
        if found == end {
            return Ok(());
        }
        let verb = if found > end { "grown" } else { "shrunk" };
        let message = format!(
            "{} has {verb} to {found} bytes; the run had reached its end at {end}, which has closed all windows",
            one.name()
        );
        Err(Failure::halted(message).hint(START_OVER))
    }

    /// What differs between the inputs then and now.
    fn others(&self, inputs: &Inputs) -> Failure {
        let now: Vec<String> = inputs.list.iter().map(|one| one.identity.display().to_string()).collect();
        let message = match (self.names.as_slice(), now.as_slice()) {
            ([then], [now]) => format!("the state belongs to input `{then}`, not `{now}`"),
            ([], _) => format!(
                "the state belongs to inputs that are not the first {} of the {} named now",
                self.count,
                now.len()
            ),
            (then, now) => {
                let missing = |from: &[String], other: &[String]| -> Vec<String> {
                    let other: std::collections::BTreeSet<&String> = other.iter().collect();
                    from.iter().filter(|name| !other.contains(name)).cloned().collect()
                };
                let (gone, new) = (missing(then, now), missing(now, then));
                let change = match (gone.is_empty(), new.is_empty()) {
                    (true, true) => "they come in another order".to_owned(),
                    (false, true) => format!("{} is gone", names(gone)),
                    (true, false) => format!("{} is new and comes before others", names(new)),
                    (false, false) => format!("{} is gone, {} is new", names(gone), names(new)),
                };
                format!("the state belongs to inputs that changed: {change}")
            }
        };
        Failure::usage(message)
            .hint(format!("name the same inputs in the same order, new ones behind them; or {START_OVER}"))
    }
}

fn names(mut list: Vec<String>) -> String {
    let more = list.len().saturating_sub(NAMED);
    list.truncate(NAMED);
    let list = list.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

/// Identifies the first `count` inputs and their order.
fn digest(inputs: &Inputs, count: usize) -> String {
    let mut hash = Sha256::new();
    for one in inputs.list.iter().take(count) {
        hash.update(one.identity.as_os_str().as_encoded_bytes());
        hash.update([0]);
    }
    hex(hash)
}

fn chain(before: &str, bytes: u64) -> String {
    hex(Sha256::new().chain_update(before).chain_update(bytes.to_be_bytes()))
}

fn hex(hash: Sha256) -> String {
    // Half of it tells any two lists apart.
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn inputs(dir: &Path, names: &[&str]) -> Inputs {
        let paths: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
        for path in paths.iter().filter(|path| !path.exists()) {
            std::fs::write(path, "{}\n").unwrap();
        }
        Inputs::find(&paths).unwrap()
    }

    fn said(progress: &InputProgress, inputs: &Inputs) -> String {
        progress.clone().check(inputs).unwrap_err().to_string()
    }

    #[test]
    fn other_inputs_are_refused_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let progress = InputProgress::fresh(&inputs(dir.path(), &["a", "b"]));
        for (now, expected) in [
            (&["b", "a"][..], "another order"),
            (&["a"], "b` is gone"),
            (&["a", "c"], "c` is new"),
            (&["0", "a", "b"], "0` is new and comes before"),
            (&["a", "b", "a2"], ""),
        ] {
            let now = inputs(dir.path(), now);
            match expected {
                "" => assert!(progress.clone().check(&now).is_ok()),
                _ => assert!(said(&progress, &now).contains(expected), "{}", said(&progress, &now)),
            }
        }
    }

    #[test]
    fn inputs_behind_the_last_are_taken_up_until_the_end_was_reached() {
        let dir = tempfile::tempdir().unwrap();
        let before = inputs(dir.path(), &["a"]);
        let now = inputs(dir.path(), &["a", "b"]);
        let mut progress = InputProgress::fresh(&before);
        progress.check(&now).unwrap();
        assert_eq!(progress.count, 2);
        let mut ended = InputProgress::fresh(&before);
        ended.ended(3);
        assert!(said(&ended, &now).contains("closed all windows"));
        ended.check(&before).unwrap();
    }

    #[test]
    fn what_was_read_must_keep_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let list = inputs(dir.path(), &["a", "b"]);
        let mut progress = InputProgress::fresh(&list);
        progress.next_file(3, 1);
        progress.check(&list).unwrap();
        std::fs::write(dir.path().join("a"), "{}\n{}\n").unwrap();
        assert!(said(&progress, &list).contains("another length"));
        std::fs::write(dir.path().join("a"), "{}\n").unwrap();
        progress.ended(3);
        progress.check(&list).unwrap();
        for (text, expected) in [("{}\n{}\n", "grown to 6 bytes"), ("", "shrunk to 0 bytes")] {
            std::fs::write(dir.path().join("b"), text).unwrap();
            assert!(said(&progress, &list).contains(expected));
        }
    }

    #[test]
    fn names_of_many_inputs_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..2000).map(|idx| format!("{idx:050}")).collect();
        let list = inputs(dir.path(), &names.iter().map(String::as_str).collect::<Vec<_>>());
        let progress = InputProgress::fresh(&list);
        assert!(serde_json::to_string(&progress).unwrap().len() < 1000);
        let fewer = Inputs { list: list.list[1..].to_vec() };
        assert!(said(&progress, &fewer).contains("not the first 2000 of the 1999"));
    }
}
