//! Which file and line an event came from: dead letters and late events say it.

use std::sync::{Arc, Mutex, PoisonError};

/// Where inputs begin in the numbering of all lines. Shared by the side that reads and the one that writes.
#[derive(Clone, Debug, Default)]
pub(in crate::run) struct Places(Arc<Mutex<Vec<(u64, String)>>>);

impl Places {
    /// The lines behind `lines_before` are of the input `name`. Called in their order.
    pub(in crate::run) fn begin(&self, lines_before: u64, name: String) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One without a line is nowhere.
        if places.last().is_some_and(|(before, _)| *before == lines_before) {
            places.pop();
        }
        places.push((lines_before, name));
    }

    /// The input of event `sequence`, and its line there, from 1.
    pub(in crate::run) fn find(&self, sequence: u64) -> Option<(String, u64)> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idx = places.partition_point(|(before, _)| *before < sequence).checked_sub(1)?;
        let (before, name) = &places[idx];
        Some((name.clone(), sequence - before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_its_file() {
        let places = Places::default();
        assert_eq!(places.find(1), None);
        places.begin(0, "a".into());
        places.begin(3, "empty".into());
        places.begin(3, "b".into());
        for (sequence, file, line) in [(1, "a", 1), (3, "a", 3), (4, "b", 1), (100, "b", 97)] {
            assert_eq!(places.find(sequence), Some((file.to_owned(), line)));
        }
        assert_eq!(places.find(0), None);
    }
}
