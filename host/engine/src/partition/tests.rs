//! The protocol without the simulator: the recovery table, row by row.

use super::recover::{Decision, check_position, decide};
use crate::epoch::{Marker, MarkerFields, Position, StreamIdentity};
use crate::log::{StoredMarker, StreamFacts, Survey};
use crate::store::{Local, Past};
use crate::time::WallTime;

/// A marker as `EPOCH/NONCE@SEQUENCE`; `-` for none.
fn marker(text: &str, created: i64) -> Option<StoredMarker> {
    let (epoch, rest) = text.split_once('/')?;
    let (nonce, sequence) = rest.split_once('@')?;
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let marker = Marker::new(MarkerFields {
        epoch: number(epoch),
        nonce: u128::from(number(nonce)),
        input: StreamIdentity { name: "IN".into(), created },
        position: Position { sequence: 10 * number(epoch), fingerprint: 7 },
        read_through: 10 * number(epoch),
        pipeline_stream: StreamIdentity { name: "LOG".into(), created: 1 },
        lease: 1,
        delta_chunks: 1,
        ..MarkerFields::default()
    });
    Some(StoredMarker { sequence: number(sequence), marker })
}

fn facts(name: &str, created: i64, first: u64, last: u64) -> StreamFacts {
    let identity = StreamIdentity { name: name.into(), created };
    StreamFacts { identity, first_sequence: first, last_sequence: last }
}

fn survey(theirs: &str, ours: &str, created: i64) -> Survey {
    Survey {
        input: facts("IN", created, 1, 1000),
        is_alone: true,
        // Where there is no marker, the stream has lost all that it held.
        log: facts("LOG", 1, 1, marker(theirs, 1).map_or(0, |stored| stored.sequence)),
        marker: marker(theirs, 1),
        input_fingerprint: Some(7),
        marker_of_epoch: marker(ours, 1),
        all_delivered: None,
        ack_floor: 0,
        broker_time: WallTime(0),
        snapshot_epoch: None,
    }
}

/// A store whose head is `head`, with every epoch up to it in its history under the nonce 100 + epoch.
fn local(head: &str) -> Option<Local> {
    let head = marker(head, 1)?;
    let past = |epoch| Past {
        epoch,
        nonce: u128::from(100 + epoch),
        position: Position { sequence: 10 * epoch, fingerprint: 7 },
        sequence: epoch,
    };
    let history = (1..=head.marker.epoch).map(past).collect();
    Some(Local { head, snapshot: None, deltas: Vec::new(), history, sink: Vec::new() })
}

fn text(decision: &Decision) -> String {
    match decision {
        Decision::Start => "start".into(),
        Decision::Continue { marker } => format!("continue {}", marker.marker.epoch),
        Decision::Republish { first, last, base } => {
            format!("republish {first}..={last} on {}", base.as_ref().map_or(0, |base| base.sequence))
        }
        Decision::Replay { after, marker } => format!("replay after {after} to {}", marker.marker.epoch),
        Decision::Rebuild { marker, .. } => format!("rebuild {}", marker.marker.epoch),
        Decision::Halt(halted) => format!("halt {}", halted.code),
    }
}

/// Local head, the stream's last marker, the stream's marker of our epoch, first epoch of the outbox, what follows.
const TABLE: &str = "
    -         | -         | -        | 0 | start
    -         | 5/105@50  | -        | 0 | rebuild 5
    3/103@30  | -         | -        | 1 | republish 1..=3 on 0
    3/103@30  | -         | -        | 2 | halt markers-missing
    3/103@30  | 3/103@30  | 3/103@30 | 1 | continue 3
    3/103@30  | 3/103@44  | 3/103@44 | 9 | continue 3
    3/103@30  | 3/999@30  | 3/999@30 | 1 | rebuild 3
    5/105@50  | 3/103@30  | -        | 4 | republish 4..=5 on 30
    5/105@50  | 4/104@40  | -        | 5 | republish 5..=5 on 40
    5/105@50  | 3/103@30  | -        | 5 | rebuild 3
    5/105@50  | 3/999@30  | -        | 1 | rebuild 3
    3/103@30  | 5/105@50  | 3/103@30 | 1 | replay after 30 to 5
    3/103@30  | 5/105@50  | 3/103@41 | 1 | replay after 41 to 5
    3/103@30  | 5/105@50  | 3/999@30 | 1 | rebuild 5
    3/103@30  | 5/105@50  | 4/103@30 | 1 | rebuild 5
    3/103@30  | 5/105@50  | -        | 1 | rebuild 5
";

#[test]
fn the_recovery_table() {
    for line in TABLE.lines().filter(|line| !line.trim().is_empty()) {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [mine, theirs, ours, outbox, expected] = parts[..] else { panic!("{line}") };
        let outbox: u64 = outbox.parse().expect("a number");
        let local = local(mine);
        let decision = decide(local.as_ref(), &survey(theirs, ours, 1), &mut |first, _| outbox <= first);
        assert_eq!(text(&decision), expected, "{line}");
        // A recreated input stream comes before everything, as long as anything was ever committed.
        let recreated = decide(local.as_ref(), &survey(theirs, ours, 2), &mut |_, _| true);
        let expected = if mine == "-" && theirs == "-" { "start" } else { "halt input-recreated" };
        assert_eq!(text(&recreated), expected, "{line}");
    }
}

#[test]
fn a_marker_that_was_deleted_is_not_a_lost_tail() {
    let local = local("3/103@30");
    let survey = Survey { log: facts("LOG", 1, 31, 30), ..survey("-", "-", 1) };
    assert_eq!(text(&decide(local.as_ref(), &survey, &mut |_, _| true)), "halt markers-missing");
}

#[test]
fn traces_of_earlier_work_without_a_marker_are_no_start() {
    let fresh = || survey("-", "-", 1);
    let decided = |survey: &Survey| text(&decide(None, survey, &mut |_, _| true));
    assert_eq!(decided(&Survey { ack_floor: 7, ..fresh() }), "halt markers-missing");
    assert_eq!(decided(&Survey { snapshot_epoch: Some(3), ..fresh() }), "halt markers-missing");
    // A consumer that was placed where the stream begins has acknowledged nothing.
    assert_eq!(decided(&Survey { ack_floor: 499, input: facts("IN", 1, 500, 900), ..fresh() }), "start");
}

#[test]
fn a_stream_made_again_is_the_same_history_where_it_holds_our_head() {
    let local = local("3/103@30");
    let anew = |theirs, ours| Survey { log: facts("LOG", 2, 1, 90), ..survey(theirs, ours, 1) };
    let decided = |survey: &Survey| text(&decide(local.as_ref(), survey, &mut |_, _| true));
    assert_eq!(decided(&anew("3/103@30", "3/103@30")), "continue 3");
    assert_eq!(decided(&anew("5/105@50", "3/103@30")), "replay after 30 to 5");
    assert_eq!(decided(&anew("5/105@50", "-")), "halt pipeline-stream-recreated");
    assert_eq!(decided(&anew("-", "-")), "halt pipeline-stream-recreated");
}

#[test]
fn before_the_first_event_there_is_nothing_to_lose() {
    let mut local = local("1/101@10").expect("has a head");
    let fields = MarkerFields { position: Position::default(), ..(*local.head.marker).clone() };
    local.head.marker = Marker::new(fields);
    for (log, input) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        let survey = Survey { log: facts("LOG", log, 1, 0), ..survey("-", "-", input) };
        assert_eq!(text(&decide(Some(&local), &survey, &mut |_, _| true)), "start", "{log} {input}");
    }
    // Another host has gone on from there, and what it committed was deleted.
    let acknowledged = Survey { ack_floor: 7, ..survey("-", "-", 1) };
    assert_eq!(text(&decide(Some(&local), &acknowledged, &mut |_, _| true)), "halt markers-missing");
}

/// An epoch that left the history is not one of ours, however small its distance.
#[test]
fn an_epoch_outside_of_the_history_is_foreign() {
    let mut local = local("5/105@50").expect("has a head");
    local.history.retain(|past| past.epoch > 3);
    assert_eq!(text(&decide(Some(&local), &survey("3/103@30", "-", 1), &mut |_, _| true)), "rebuild 3");
}

#[test]
fn the_input_is_checked_against_the_position() {
    // Position, first and last sequence of the stream, fingerprint found at the position, what follows.
    for (position, first, last, found, expected) in [
        (0, 1, 0, None, "ok"),
        (0, 500, 900, None, "ok"),
        (30, 1, 30, Some(7), "ok"),
        (30, 1, 900, Some(7), "ok"),
        (30, 30, 900, Some(7), "ok"),
        (30, 31, 30, None, "ok"),
        // What expired unread is told by the fetch.
        (30, 32, 900, None, "ok"),
        (30, 1, 29, None, "input-rolled-back"),
        (30, 1, 0, None, "input-rolled-back"),
        (30, 1, 900, Some(8), "input-rolled-back"),
        (30, 1, 30, Some(8), "input-rolled-back"),
    ] {
        let survey = Survey { input: facts("IN", 1, first, last), input_fingerprint: found, ..survey("-", "-", 1) };
        let got = check_position(Position { sequence: position, fingerprint: 7 }, &survey);
        let code = got.as_ref().map_or_else(|halted| halted.code.name(), |()| "ok");
        assert_eq!(code, expected, "{position} {first}..={last} {found:?}");
    }
}
