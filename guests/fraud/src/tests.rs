//! The rule natively: golden cases, and the borders of each threshold.

use super::*;
use pelton_sdk::testing;

const HOUR: i64 = 3_600_000;

#[test]
fn cases() {
    testing::check_cases(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"), testing::run_window_rule::<StreamFarm>);
}

#[track_caller]
fn check(config: &Config, plays: i64, average_ms: i64, distinct_tracks: i64, expected: Option<(Rule, Severity)>) {
    let usage = Usage { plays, played_ms: plays * average_ms, average_ms, distinct_tracks, window_ms: HOUR };
    assert_eq!(judge(config, &usage), expected, "{plays} plays of {average_ms} ms, {distinct_tracks} tracks");
}

#[test]
fn a_farm_shows_by_rate_and_by_clips_or_tracks() {
    let config = Config::default();
    check(&config, 116, 31_000, 1, Some((Rule::PaidClips, Severity::High)));
    check(&config, 116, 31_000, 80, Some((Rule::PaidClips, Severity::Medium)));
    check(&config, 116, 90_000, 3, Some((Rule::FewTracks, Severity::Medium)));
    check(&config, 101, 30_000, 5, Some((Rule::PaidClips, Severity::High)));
    check(&config, 100, 31_000, 1, None);
    check(&config, 101, 45_001, 6, None);
    check(&config, 101, 29_999, 6, None);
}

#[test]
fn heavy_listeners_are_no_farm() {
    let config = Config::default();
    // Skips through half a playlist.
    check(&config, 180, 9_000, 95, None);
    // A café, or a generator's favourite user: impossible for one person, and no farm.
    check(&config, 900, 170_000, 100, None);
}

#[test]
fn overlap_is_opt_in() {
    let config = Config { overlap: 1.5, ..Config::default() };
    check(&config, 31, 180_000, 31, Some((Rule::OverlappingPlays, Severity::Medium)));
    check(&config, 30, 180_000, 30, None);
    check(&Config::default(), 900, 180_000, 100, None);
}

#[test]
fn the_rate_scales_with_the_window() {
    let usage = |plays: i64, minutes: i64| Usage {
        plays,
        played_ms: plays * 31_000,
        average_ms: 31_000,
        distinct_tracks: 1,
        window_ms: minutes * 60_000,
    };
    let config = Config::default();
    assert!(judge(&config, &usage(17, 10)).is_some(), "100 an hour are 16.7 in ten minutes");
    assert!(judge(&config, &usage(16, 10)).is_none());
    assert!(judge(&config, &usage(9, 1)).is_none(), "below min_plays");
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let refusal = |text: &str| testing::run_window_rule::<StreamFarm>(text, "").expect_err("refused");
    assert_eq!(refusal(r#"{"plays_per_hour":0}"#), "plays_per_hour is 0, wanted more than 0");
    assert_eq!(refusal(r#"{"few_tracks":100}"#), "few_tracks is 100, wanted 0 to 99");
    assert_eq!(
        refusal(r#"{"paid_ms":50000}"#),
        "paid_ms is 50000 and clip_ms is 45000, wanted 0 <= paid_ms <= clip_ms"
    );
    assert!(refusal(r#"{"plays_per_hr":1}"#).starts_with("config does not fit: unknown field `plays_per_hr`"));
}
