//! What the first run found, for people to read, and whether it is the ground truth.

use std::collections::BTreeMap;

use anyhow::Result;
use pelton_bench::stream::{Dump, Kind};
use pelton_bench::table::grouped;
use pelton_bench::truth::{self, Alert, Comparison, Truth};

const MINUTE_MS: i64 = 60_000;

/// One line of the story: what it is about, then what there is to say.
pub(crate) fn line(topic: &str, text: &str) {
    println!("{topic:<11}{text}");
}

/// A further line on the same topic.
fn more(text: &str) {
    line("", text);
}

/// Prints the results; returns whether all of them are as the generator knows they must be.
pub(crate) fn tell(dump: &Dump, truth: &Truth) -> Result<bool> {
    let alerts = truth::alerts(dump)?;
    println!();
    caught(&alerts, truth);
    let (late, dead) = (dump.count(Kind::Late), dump.count(Kind::DeadLetter));
    println!();
    line("late", &format!("{} plays came after all their windows had closed; stored as late events", grouped(late)));
    line("dead", &format!("{} records were refused, kept with code and original bytes:", grouped(dead)));
    for (code, count) in truth::dead_by_code(dump) {
        more(&format!("{:>7}  {code}", grouped(count)));
    }
    println!();
    let comparison = truth::compare(&truth.open_stream_alerts(), &alerts);
    alerts_verdict(&comparison);
    let late_right = verdict("late events", truth.late_events, late);
    let dead_right = verdict("dead letters", truth.bad_records(), dead);
    Ok(comparison.is_equal() && late_right && dead_right)
}

/// Accounts with their first alert, and how long it took.
fn caught(alerts: &[Alert], truth: &Truth) {
    let mut accounts: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        accounts.entry(&alert.user).or_default().push(alert);
    }
    let starts: BTreeMap<&str, i64> = truth.farms.iter().map(|farm| (farm.user_id.as_str(), farm.first_play)).collect();
    let others = accounts.keys().filter(|user| !starts.contains_key(*user)).count();
    let farms = accounts.len() - others;
    line("caught", &format!("{} accounts: {farms} of {} farms, {others} others", accounts.len(), starts.len()));
    more(&format!(
        "{:<12} {:>10} {:>11} {:>7}  {:<17} {}",
        "account", "caught in", "plays/hour", "alerts", "rule", "severity"
    ));
    let mut times = Vec::new();
    for (user, alerts) in &accounts {
        let Some(first) = alerts.iter().min_by_key(|alert| (alert.window_end, alert.pane_index)) else { continue };
        let time = starts.get(user).map(|start| first.window_end - start);
        times.extend(time);
        let shown = time.map_or_else(|| "no farm".to_owned(), minutes);
        let most = alerts.iter().map(|alert| alert.plays).max().unwrap_or_default();
        let count = alerts.len();
        more(&format!("{user:<12} {shown:>10} {most:>11} {count:>7}  {:<17} {}", first.rule, first.severity));
    }
    times.sort_unstable();
    if let (Some(min), Some(max)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        let text = format!("min {}, median {}, max {}", minutes(*min), minutes(median), minutes(*max));
        line("when", &format!("event time from the first clip to the end of the window that told: {text}"));
    }
}

fn minutes(ms: i64) -> String {
    format!("{} min", (ms + MINUTE_MS / 2) / MINUTE_MS)
}

fn alerts_verdict(comparison: &Comparison) {
    let Comparison { expected, equal, missing, unexpected } = comparison;
    if comparison.is_equal() {
        line("truth", &format!("alerts: equal, {} of {}, every field", grouped(*equal), grouped(*expected)));
        return;
    }
    let (lost, extra) = (missing.len(), unexpected.len());
    line("truth", &format!("alerts: DIFFERENT, {equal} of {expected} equal, {lost} missing, {extra} unexpected"));
    for (what, alerts) in [("missing", missing), ("unexpected", unexpected)] {
        for alert in alerts.iter().take(5) {
            more(&format!("  {what}: {alert:?}"));
        }
    }
}

fn verdict(what: &str, expected: u64, found: u64) -> bool {
    if expected == found {
        more(&format!("{what}: equal, {}", grouped(found)));
    } else {
        more(&format!("{what}: DIFFERENT, {} instead of {}", grouped(found), grouped(expected)));
    }
    expected == found
}
