//! The generator's ground truth, and whether a pipeline's alerts, late events and dead letters are exactly it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::stream::{Dump, Kind};

/// The side file of `pelton generate plays`.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    pub farms: Vec<Farm>,
    pub alerts: Vec<ExpectedAlert>,
    pub late_events: u64,
    /// Bad records by kind.
    pub bad: BTreeMap<String, u64>,
}

/// One account of a farm.
#[derive(Clone, Debug, Deserialize)]
pub struct Farm {
    pub user_id: String,
    /// Event time, milliseconds since 1970.
    pub first_play: i64,
}

/// An alert as the module writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Alert {
    pub user: String,
    pub window_start: i64,
    pub window_end: i64,
    /// 0 for the first alert of a window, then the number of the correction.
    pub pane_index: u32,
    pub plays: i64,
    pub distinct_tracks: i64,
    pub average_ms: i64,
    pub rule: String,
    pub severity: String,
}

/// An alert that must come, and when.
#[derive(Clone, Debug, Deserialize)]
pub struct ExpectedAlert {
    #[serde(flatten)]
    pub alert: Alert,
    /// `on-time`, `late` or `end-of-input`; a stream that stays open does not show the last kind.
    pub pane_timing: String,
}

/// Alerts expected against alerts found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub expected: u64,
    pub equal: u64,
    pub missing: Vec<Alert>,
    pub unexpected: Vec<Alert>,
}

impl Comparison {
    /// Whether both are the same alerts, each as often.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

impl Truth {
    /// Reads the side file.
    ///
    /// # Errors
    /// When it does not read as such.
    pub fn read(path: &Path) -> Result<Truth> {
        let bytes = std::fs::read(path).with_context(|| format!("reading `{}`", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("`{}` is not a ground truth", path.display()))
    }

    /// Alerts that a stream must show while it stays open, sorted.
    #[must_use]
    pub fn open_stream_alerts(&self) -> Vec<Alert> {
        let shown = self.alerts.iter().filter(|expected| expected.pane_timing != "end-of-input");
        let mut alerts: Vec<Alert> = shown.map(|expected| expected.alert.clone()).collect();
        alerts.sort();
        alerts
    }

    /// Number of bad records.
    #[must_use]
    pub fn bad_records(&self) -> u64 {
        self.bad.values().sum()
    }
}

/// The alerts in a pipeline's records, sorted.
///
/// # Errors
/// When an output is not an alert.
pub fn alerts(dump: &Dump) -> Result<Vec<Alert>> {
    let records = dump.of(Kind::Output).flat_map(|(_, records)| records);
    let mut alerts = records
        .map(|record| {
            let text = || String::from_utf8_lossy(&record.payload).into_owned();
            serde_json::from_slice(&record.payload).with_context(|| format!("not an alert: {}", text()))
        })
        .collect::<Result<Vec<Alert>>>()?;
    alerts.sort();
    Ok(alerts)
}

/// Compares two sorted lists.
#[must_use]
pub fn compare(expected: &[Alert], found: &[Alert]) -> Comparison {
    let mut comparison = Comparison { expected: expected.len() as u64, ..Comparison::default() };
    let (mut left, mut right) = (expected.iter().peekable(), found.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return comparison,
            (Some(a), Some(b)) if a == b => {
                comparison.equal += 1;
                left.next();
                right.next();
            }
            (Some(a), Some(b)) if b < a => comparison.unexpected.extend(right.next().cloned()),
            (Some(_), _) => comparison.missing.extend(left.next().cloned()),
            (None, Some(_)) => comparison.unexpected.extend(right.next().cloned()),
        }
    }
}

/// Dead letters by stage and code, most frequent first.
#[must_use]
pub fn dead_by_code(dump: &Dump) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (subject, records) in dump.of(Kind::DeadLetter) {
        // pelton.<pipeline>.<partition>.dlq.<stage>.<code>
        let code: Vec<&str> = subject.split('.').skip(4).collect();
        *counts.entry(code.join(" ")).or_default() += records.len() as u64;
    }
    let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(user: &str, window_end: i64) -> Alert {
        Alert {
            user: user.to_owned(),
            window_start: window_end - 3_600_000,
            window_end,
            pane_index: 0,
            plays: 116,
            distinct_tracks: 1,
            average_ms: 31_000,
            rule: "paid-clips".to_owned(),
            severity: "high".to_owned(),
        }
    }

    #[test]
    fn missing_unexpected_and_doubled_alerts_are_found() {
        let (a, b, c) = (alert("a", 1), alert("b", 1), alert("c", 1));
        assert!(compare(&[a.clone(), b.clone()], &[a.clone(), b.clone()]).is_equal());
        let found = compare(&[a.clone(), b.clone()], &[a.clone(), a.clone(), c.clone()]);
        assert_eq!((found.equal, found.missing, found.unexpected), (1, vec![b], vec![a, c]));
    }
}
