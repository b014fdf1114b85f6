//! The ground truth: which alerts the fraud pipeline must write for these events, and how many rows are late.
//!
//! Naive on purpose and independent of the engine and of the module: for each account that could be an alert, every
//! window is looked at by itself. The law, per partition and in order of arrival:
//!
//! - the watermark before an event is the largest event time among earlier good events, minus `delay`;
//! - a window takes an event while `end + allowed_lateness` is after the watermark; an event that no window takes is late;
//! - a window fires once when the watermark reaches its end, then once for every event it still takes (a correction);
//! - what has not fired when the input ends fires then.

use std::collections::HashMap;

use serde::Serialize;

use super::Plays;
use super::render::{Play, user_name};

/// How the pipeline is set up: all times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Law {
    pub(crate) partitions: u32,
    pub(crate) delay: i64,
    pub(crate) allowed_lateness: i64,
    pub(crate) size: i64,
    pub(crate) slide: i64,
}

/// The rule's default thresholds, stated here a second time.
const MIN_PLAYS: i64 = 10;
const PLAYS_PER_HOUR: i64 = 100;
const PAID_MS: i64 = 30_000;
const CLIP_MS: i64 = 45_000;
const FEW_TRACKS: i64 = 5;
const TRACKS_COUNTED: i64 = 100;
const HOUR_MS: i64 = 3_600_000;

/// One alert, with the fields of the module's output, and when it must come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Alert {
    pub(crate) user: String,
    pub(crate) window_start: i64,
    pub(crate) window_end: i64,
    pub(crate) plays: i64,
    pub(crate) distinct_tracks: i64,
    pub(crate) average_ms: i64,
    pub(crate) rule: &'static str,
    pub(crate) severity: &'static str,
    /// Number of the pane: corrections count on from 1.
    pub(crate) pane_index: u32,
    pub(crate) pane_timing: Timing,
}

/// What makes a pane fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Timing {
    /// The watermark reached the end of the window.
    OnTime,
    /// An event came within the allowed lateness.
    Late,
    /// Only the end of the input closes the window: a stream that stays open does not show it yet.
    EndOfInput,
}

/// What must come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// By account, window and pane.
    pub(crate) alerts: Vec<Alert>,
    /// Good events that no window takes.
    pub(crate) late_events: u64,
}

/// A good event of one account and the watermark of its partition before it.
#[derive(Clone, Copy)]
struct Seen {
    ts: i64,
    track: u32,
    ms_played: i64,
    watermark: i64,
}

/// Judges all events.
pub(crate) fn judge(plays: &Plays, law: &Law) -> Verdict {
    let mut counts: HashMap<u32, i64> = HashMap::new();
    for play in good(plays) {
        *counts.entry(play.user).or_default() += 1;
    }
    // Who played less than the threshold in total cannot pass it in a window.
    let suspect = |user: u32| counts[&user] * HOUR_MS > PLAYS_PER_HOUR * law.size && counts[&user] >= MIN_PLAYS;

    let mut newest = vec![None::<i64>; law.partitions as usize];
    let mut suspects: HashMap<u32, Vec<Seen>> = HashMap::new();
    let mut late_events = 0;
    for play in good(plays) {
        let newest = &mut newest[partition(&user_name(play.user), law.partitions) as usize];
        let watermark = newest.map_or(i64::MIN, |ts| ts - law.delay);
        *newest = Some(newest.map_or(play.ts, |ts| ts.max(play.ts)));
        if windows(play.ts, law).all(|start| start + law.size + law.allowed_lateness <= watermark) {
            late_events += 1;
        } else if suspect(play.user) {
            let ms_played = i64::from(play.ms_played);
            suspects.entry(play.user).or_default().push(Seen { ts: play.ts, track: play.track, ms_played, watermark });
        }
    }
    let mut alerts: Vec<Alert> = Vec::new();
    for (user, seen) in &suspects {
        let user = user_name(*user);
        let partition = partition(&user, law.partitions) as usize;
        let last_watermark = newest[partition].map_or(i64::MIN, |ts| ts - law.delay);
        account(&user, seen, last_watermark, law, &mut alerts);
    }
    alerts.sort_by(|a, b| (&a.user, a.window_start, a.pane_index).cmp(&(&b.user, b.window_start, b.pane_index)));
    Verdict { alerts, late_events }
}

fn good(plays: &Plays) -> impl Iterator<Item = &Play> {
    plays.plays.iter().filter(|play| play.bad.is_none())
}

/// Starts of the windows that contain `ts`.
fn windows(ts: i64, law: &Law) -> impl Iterator<Item = i64> + use<> {
    let last = ts.div_euclid(law.slide) * law.slide;
    let (size, slide) = (law.size, law.slide);
    (0..).map(move |idx| last - idx * slide).take_while(move |start| start + size > ts)
}

/// The partition that JetStream's `partition(n, token)` chooses: 32-bit FNV-1a, modulo n.
pub(crate) fn partition(key: &str, partitions: u32) -> u32 {
    let hash = key.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % partitions
}

/// All alerts of one account, window by window.
fn account(user: &str, seen: &[Seen], last_watermark: i64, law: &Law, alerts: &mut Vec<Alert>) {
    let mut starts: Vec<i64> = seen.iter().flat_map(|one| windows(one.ts, law)).collect();
    starts.sort_unstable();
    starts.dedup();
    for start in starts {
        let end = start + law.size;
        let taken: Vec<&Seen> = seen
            .iter()
            .filter(|one| (start..end).contains(&one.ts) && one.watermark < end + law.allowed_lateness)
            .collect();
        let on_time = taken.iter().take_while(|one| one.watermark < end).count();
        let mut pane_index = 0;
        let mut fire = |count: usize, pane_timing: Timing| {
            alerts.extend(alert(user, start, &taken[..count], pane_index, pane_timing, law));
            pane_index += 1;
        };
        if on_time > 0 {
            fire(on_time, if end <= last_watermark { Timing::OnTime } else { Timing::EndOfInput });
        }
        for count in on_time + 1..=taken.len() {
            fire(count, Timing::Late);
        }
    }
}

/// The alert for a pane, if it is one.
fn alert(user: &str, start: i64, taken: &[&Seen], pane_index: u32, pane_timing: Timing, law: &Law) -> Option<Alert> {
    let plays = taken.len() as i64;
    if plays < MIN_PLAYS || plays * HOUR_MS <= PLAYS_PER_HOUR * law.size {
        return None;
    }
    let average_ms = taken.iter().map(|one| one.ms_played).sum::<i64>() / plays;
    let mut tracks: Vec<u32> = taken.iter().map(|one| one.track).collect();
    tracks.sort_unstable();
    tracks.dedup();
    let distinct_tracks = (tracks.len() as i64).min(TRACKS_COUNTED);
    let (rule, severity) = match ((PAID_MS..=CLIP_MS).contains(&average_ms), distinct_tracks <= FEW_TRACKS) {
        (true, true) => ("paid-clips", "high"),
        (true, false) => ("paid-clips", "medium"),
        (false, true) => ("few-tracks", "medium"),
        (false, false) => return None,
    };
    Some(Alert {
        user: user.to_owned(),
        window_start: start,
        window_end: start + law.size,
        plays,
        distinct_tracks,
        average_ms,
        rule,
        severity,
        pane_index,
        pane_timing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const LAW: Law =
        Law { partitions: 1, delay: 2 * MINUTE, allowed_lateness: 10 * MINUTE, size: 60 * MINUTE, slide: 5 * MINUTE };

    fn play(user: u32, ts: i64) -> Play {
        Play { arrival: 0, ts, user, track: 1, ms_played: 31_000, salt: 0, bad: None }
    }

    fn verdict(plays: Vec<Play>) -> Verdict {
        judge(&Plays { plays, farms: Vec::new() }, &LAW)
    }

    #[test]
    fn a_window_fires_on_time_then_per_correction_then_takes_nothing() {
        // 101 plays in the hour from 10 h on, then the watermark passes its end, then two stragglers.
        let start = 10 * 60 * MINUTE;
        let mut plays: Vec<Play> = (0..101).map(|idx| play(7, start + idx * 30_000)).collect();
        plays.push(play(8, start + 62 * MINUTE)); // watermark: exactly the end
        plays.push(play(7, start + MINUTE)); // correction
        plays.push(play(8, start + 72 * MINUTE)); // watermark: end + allowed_lateness
        plays.push(play(7, start + MINUTE)); // dropped from this window
        let found: Vec<Alert> = verdict(plays).alerts.into_iter().filter(|alert| alert.window_start == start).collect();
        let shown: Vec<(u32, i64, Timing)> =
            found.iter().map(|one| (one.pane_index, one.plays, one.pane_timing)).collect();
        assert_eq!(shown, [(0, 101, Timing::OnTime), (1, 102, Timing::Late)]);
        assert_eq!((found[0].rule, found[0].severity, found[0].average_ms), ("paid-clips", "high", 31_000));
    }

    #[test]
    fn an_event_is_late_only_when_no_window_takes_it() {
        let start = 10 * 60 * MINUTE;
        // The last window with `start` in it is [start, start + 60 min); it closes at 70 min, so 72 min on the clock.
        let last = play(1, start + 72 * MINUTE);
        assert_eq!(verdict(vec![last, play(2, start)]).late_events, 1);
        let before = play(1, start + 72 * MINUTE - 1);
        assert_eq!(verdict(vec![before, play(2, start)]).late_events, 0);
    }

    #[test]
    fn what_has_not_fired_fires_at_the_end() {
        let start = 10 * 60 * MINUTE;
        let plays = (0..116).map(|idx| play(7, start + idx * 31_000)).collect();
        let found = verdict(plays).alerts;
        let on_time: Vec<i64> = found
            .iter()
            .filter(|alert| alert.pane_timing == Timing::OnTime)
            .map(|alert| (alert.window_end - start) / MINUTE)
            .collect();
        assert_eq!(on_time, [55], "the last play is at 59:25, the watermark at 57:25");
        assert!(found.iter().all(|alert| alert.plays > 100 && alert.pane_index == 0));
    }

    #[test]
    fn partitions_are_those_of_the_broker() {
        // Known values of 32-bit FNV-1a.
        assert_eq!(partition("", u32::MAX), 0x811c_9dc5);
        assert_eq!(partition("a", u32::MAX), 0xe40c_292c);
        assert_eq!(partition("foobar", u32::MAX), 0xbf9c_f968);
    }
}
