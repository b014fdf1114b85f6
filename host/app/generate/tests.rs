//! The generator as a whole.

use super::oracle::{Law, judge};
use super::*;

fn spec() -> Spec {
    Spec {
        seed: 1,
        events: 60_000,
        start: 1_767_225_600_000,
        duration: 4 * HOUR_MS,
        users: 5_000,
        tracks: 2_000,
        zipf: 1.05,
        farms: 8,
        farm_time: 2 * HOUR_MS,
        late: 0.01,
        too_late: 80 * 60_000,
        bad: 0.01,
    }
}

const LAW: Law = Law { partitions: 1, delay: 120_000, allowed_lateness: 600_000, size: HOUR_MS, slide: 300_000 };

#[test]
fn the_same_seed_gives_the_same_records() {
    let (one, two) = (Plays::new(&spec()).unwrap(), Plays::new(&spec()).unwrap());
    assert_eq!(one.plays, two.plays);
    let other = Plays::new(&Spec { seed: 2, ..spec() }).unwrap();
    assert_ne!(one.plays, other.plays);
    assert_eq!(other.plays.len(), 60_000);
}

#[test]
fn no_count_is_too_large_for_an_answer() {
    let error = |spec: Spec| Plays::new(&spec).err().expect("refused").to_string();
    for events in [u64::MAX, EVENTS_MAX + 1] {
        assert!(error(Spec { events, ..spec() }).contains("more than"), "{events}");
    }
    // Refused before anything is made of them.
    assert!(error(Spec { events: EVENTS_MAX, ..spec() }).contains("people listening at a time"));
    let century = 36_500 * 24 * HOUR_MS;
    let many = Spec { farms: 100_000, farm_time: century, duration: century, ..spec() };
    assert!(error(many).contains("farms alone"));
}

#[test]
fn farms_are_found_and_people_are_not() {
    let plays = Plays::new(&spec()).unwrap();
    let verdict = judge(&plays, &LAW);
    let mut caught: Vec<&str> = verdict.alerts.iter().map(|alert| alert.user.as_str()).collect();
    caught.dedup();
    let mut farms: Vec<&str> = plays.farms.iter().map(|farm| farm.user_id.as_str()).collect();
    farms.sort_unstable();
    assert_eq!(caught, farms);
    assert!(
        verdict.alerts.iter().any(|alert| alert.pane_index > 0),
        "some farm's play is late enough for a correction"
    );
}

#[test]
fn nobody_plays_two_tracks_at_once() {
    let plays = Plays::new(&Spec { bad: 0.0, late: 0.0, farms: 0, ..spec() }).unwrap();
    let mut per_user: BTreeMap<u32, Vec<(i64, i64)>> = BTreeMap::new();
    for play in &plays.plays {
        per_user.entry(play.user).or_default().push((play.ts, play.ts + i64::from(play.ms_played)));
    }
    for times in per_user.values_mut() {
        times.sort_unstable();
        assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
    let head = per_user.values().map(Vec::len).max().unwrap();
    assert!((100..200).contains(&head), "the most active account listens all four hours: {head}");
}

#[test]
fn shares_are_those_asked_for() {
    let plays = Plays::new(&spec()).unwrap();
    let counts = plays.bad_counts();
    let bad: u64 = counts.values().sum();
    assert!((500..700).contains(&bad), "{bad}");
    assert_eq!(counts.len(), bad::ALL.len(), "{counts:?}");
    let late = judge(&plays, &LAW).late_events;
    assert!((450..700).contains(&late), "{late}");
}

#[test]
fn good_records_are_json_and_bad_ones_are_one_line() {
    let plays = Plays::new(&spec()).unwrap();
    let mut line = Vec::new();
    for play in &plays.plays {
        record(play, &mut line);
        assert!(!line.is_empty() && !line.contains(&b'\n'));
        if play.bad.is_none() {
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(value["user_id"], user_id(play));
            assert_eq!(value["ts"], play.ts);
        }
    }
}

#[test]
fn impossible_orders_are_refused_with_the_numbers() {
    let error = Plays::new(&Spec { events: 100, ..spec() }).err().unwrap();
    assert!(error.to_string().contains("8 farms alone play 1864 times"), "{error}");
    let error = Plays::new(&Spec { users: 100, ..spec() }).err().unwrap();
    assert!(error.to_string().contains("there are 100 users"), "{error}");
}
