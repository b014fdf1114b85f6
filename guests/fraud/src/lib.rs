//! Stream farms: accounts that play so that plays are paid, not so that somebody listens.
//!
//! A window is an alert when the account plays more often than a person does **and** the plays look like a farm's:
//! - `paid-clips`: on average each play ends just after the moment from which it is paid, or
//! - `few-tracks`: the same few tracks over and over.
//!
//! Rate alone is no alert, on purpose. An account with hundreds of full-length plays of many tracks an hour
//! is no single person either, but a café, a family or a shared password: a matter for contracts, not for
//! royalties. Pipelines that want these too set `overlap`, and get the rule `overlapping-plays`.
//!
//! The host keeps the aggregates; no code of this module runs per event.

use pelton_sdk::{Error, Fields, Module, Output, Pane, Plan, WindowRule};
use serde::{Deserialize, Serialize};

const HOUR_MS: i64 = 3_600_000;

/// Beyond this many, an alert says only "at least": a set of tracks per account costs memory on the host.
const TRACKS_COUNTED: u32 = 100;

/// What the rule reads from every play.
#[derive(Fields)]
pub struct Play<'a> {
    /// Only counted.
    pub track_id: &'a str,
    /// How long the play lasted.
    pub ms_played: i64,
}

/// Thresholds. Rates are per hour and scaled to the length of the window.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Accounts with fewer plays in the window are not looked at.
    pub min_plays: i64,
    /// More plays than this are more than a person plays. 100 means a new track every 36 seconds, all hour long.
    pub plays_per_hour: f64,
    /// A play is paid from this many milliseconds on.
    pub paid_ms: i64,
    /// An average play of `paid_ms` up to this is one that ends when it is paid.
    pub clip_ms: i64,
    /// At this many different tracks or fewer, the account plays the same tracks over and over.
    pub few_tracks: i64,
    /// More audio than the window's length times this is played by several at once. 0 switches the rule off.
    pub overlap: f64,
}

impl Default for Config {
    fn default() -> Config {
        Config { min_plays: 10, plays_per_hour: 100.0, paid_ms: 30_000, clip_ms: 45_000, few_tracks: 5, overlap: 0.0 }
    }
}

/// What the rule emits, as JSON, under the account's key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FraudAlert<'a> {
    /// The account.
    pub user: &'a str,
    /// First instant of the window, milliseconds since the Unix epoch.
    pub window_start: i64,
    /// First instant after it.
    pub window_end: i64,
    /// Plays in the window.
    pub plays: i64,
    /// Different tracks, counted up to 100.
    pub distinct_tracks: i64,
    /// Average length of a play.
    pub average_ms: i64,
    /// `paid-clips`, `few-tracks` or `overlapping-plays`.
    pub rule: Rule,
    /// How sure the rule is.
    pub severity: Severity,
    /// 0 for the first alert of this window, then the number of its correction: the last one counts.
    pub pane_index: u32,
}

/// Why the window is an alert: the first that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Too many plays that end when they are paid.
    PaidClips,
    /// Too many plays of too few tracks.
    FewTracks,
    /// More audio than fits into the window.
    OverlappingPlays,
}

/// How sure the rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// One sign.
    Medium,
    /// Both signs of a farm.
    High,
}

/// The rule.
pub struct StreamFarm {
    config: Config,
}

impl Module for StreamFarm {
    type Fields = Play<'static>;
    type Config = Config;
    const PORTS: &'static [&'static str] = &["alerts"];
    const CONFIG_SCHEMA: Option<&'static str> = Some(include_str!("../config.schema.json"));

    fn configure(config: Config) -> Result<StreamFarm, String> {
        let Config { min_plays, plays_per_hour, paid_ms, clip_ms, few_tracks, overlap } = config;
        if min_plays < 1 {
            return Err(format!("min_plays is {min_plays}, wanted 1 or more"));
        }
        if !(0.0 < plays_per_hour && plays_per_hour.is_finite()) {
            return Err(format!("plays_per_hour is {plays_per_hour}, wanted more than 0"));
        }
        if paid_ms < 0 || clip_ms < paid_ms {
            return Err(format!("paid_ms is {paid_ms} and clip_ms is {clip_ms}, wanted 0 <= paid_ms <= clip_ms"));
        }
        if !(0..i64::from(TRACKS_COUNTED)).contains(&few_tracks) {
            return Err(format!("few_tracks is {few_tracks}, wanted 0 to {}", TRACKS_COUNTED - 1));
        }
        if !(0.0 <= overlap && overlap.is_finite()) {
            return Err(format!("overlap is {overlap}, wanted 0 or more"));
        }
        Ok(StreamFarm { config })
    }
}

impl WindowRule for StreamFarm {
    fn plan(&self) -> Plan {
        Plan::new()
            .count("plays")
            .sum("played_ms", Play::MS_PLAYED)
            .distinct("tracks", Play::TRACK_ID, TRACKS_COUNTED)
            .at_least("plays", self.config.min_plays)
    }

    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
        let plays = pane.count("plays");
        // The field is required, so there is a sum of every play; one beyond 64 bits is clipped, and overlaps anyway.
        let played_ms = pane.integer("played_ms").unwrap_or(0);
        let distinct_tracks = pane.count("tracks");
        let average_ms = if plays == 0 { 0 } else { played_ms / plays };
        let usage = Usage { plays, played_ms, average_ms, distinct_tracks, window_ms: pane.length_ms() };
        if let Some((rule, severity)) = judge(&self.config, &usage) {
            output.emit_json(&FraudAlert {
                user: pane.key,
                window_start: pane.start,
                window_end: pane.end,
                plays,
                distinct_tracks,
                average_ms,
                rule,
                severity,
                pane_index: pane.number,
            });
        }
        Ok(())
    }
}

/// What an account did in a window.
struct Usage {
    plays: i64,
    played_ms: i64,
    average_ms: i64,
    distinct_tracks: i64,
    window_ms: i64,
}

fn judge(config: &Config, usage: &Usage) -> Option<(Rule, Severity)> {
    let hours = usage.window_ms as f64 / HOUR_MS as f64;
    if config.min_plays <= usage.plays && config.plays_per_hour * hours < usage.plays as f64 {
        let paid_clips = (config.paid_ms..=config.clip_ms).contains(&usage.average_ms);
        let few_tracks = usage.distinct_tracks <= config.few_tracks;
        match (paid_clips, few_tracks) {
            (true, true) => return Some((Rule::PaidClips, Severity::High)),
            (true, false) => return Some((Rule::PaidClips, Severity::Medium)),
            (false, true) => return Some((Rule::FewTracks, Severity::Medium)),
            (false, false) => {}
        }
    }
    let too_long = 0.0 < config.overlap && config.overlap * (usage.window_ms as f64) < usage.played_ms as f64;
    too_long.then_some((Rule::OverlappingPlays, Severity::Medium))
}

pelton_sdk::export!(window_rule: StreamFarm);

#[cfg(test)]
mod tests;
