//! Scripted cases: one for each way in which the protocol once went wrong, or could go wrong without a safeguard, and
//! which chance meets too seldom. A case is a few steps on a [`crate::rig::Rig`]; it says what must be true, and fails
//! under the weakness that takes its safeguard away.

mod expiry;
mod holes;
mod hosts;
mod output;
mod recovery;
mod streams;

use crate::world::Weakness;

/// What must be true, and the script.
pub type Case = (&'static str, fn(&Weakness) -> Result<(), String>);

/// Every case.
pub const CASES: &[Case] = &[
    ("accept-loss ends its recovery while the input goes on expiring", expiry::accepted_while_moving),
    ("accept-loss counts what expires under a running host", expiry::accepted_while_running),
    ("unread events expire under a host that is alone: it halts and stays so", expiry::halts_alone),
    ("unread events expire, and the host is killed at once: it halts and stays so", expiry::halts_when_killed),
    ("unread events expire in a stream of two partitions: it halts and stays so", expiry::halts_among_others),
    ("the first events of a quiet partition expire while no host runs", expiry::first_events),
    ("a quiet partition outlives what its neighbour loses", expiry::quiet_neighbour),
    ("a partition reads to its end and its messages expire: nothing is lost", expiry::read_then_gone),
    ("what another host has read may expire under a host that slept", expiry::read_by_another),
    ("what a limit per subject takes across a stop is noticed", expiry::limited_across_stop),
    ("a hole is one gap, however far retention has passed it", holes::passed_by_retention),
    ("deleted messages are counted with their exact range", holes::deleted),
    ("what a batch repeats is taken once", holes::repeated),
    ("a snapshot that loads slowly in parts is loaded once", recovery::slow_parts),
    ("a snapshot whose bytes are not those of its hash is passed over", recovery::changed_parts),
    ("a rebuild gives each stage its own section", recovery::sections_come_back),
    ("a recovery longer than the lease ends, with a rival standing by", recovery::longer_than_lease),
    ("a rebuild longer than the lease ends, with a rival standing by", recovery::rebuild_longer_than_lease),
    ("a change whose bytes were altered is not believed", recovery::altered_change),
    ("a snapshot that is not saved is told and tried again", recovery::unsaved_snapshot),
    ("a partition that recovers often takes its snapshots", recovery::often),
    ("another shape of state is refused", recovery::other_layout),
    ("nothing is published again before the input is checked", recovery::rolled_back_before_republish),
    ("a pipeline stream made again before the first epoch is taken for what it is", streams::log_anew_before_first),
    ("a pipeline stream made again behind epochs halts, with a disk and without", streams::log_anew),
    ("markers that retention took halt, with a disk and without", streams::markers_expired),
    ("a marker that moved under a doubt is followed", streams::moved_marker),
    ("an input made again under a doubt gets no epoch of the old one", streams::input_anew_in_doubt),
    ("a batch that is refused for what it is halts, and is not sent again", streams::refused_for_good),
    ("records larger than the broker takes become dead letters", streams::too_large),
    ("who lost the lease does not work", hosts::no_lease_no_work),
    ("a host away for 4,300 epochs sets nothing aside", hosts::away),
    ("a host whose store refuses gives the lease to one that can work", hosts::yields),
    ("a host that has caught up exits when everything is committed, not before", hosts::exits_when_caught_up),
    ("in calm weather one host works and none recovers", hosts::calm),
    ("idle time commits nothing until something is due", output::idle_is_quiet),
    ("idle time fires what is due, and no event is late for it", output::idle_fires),
    ("an outage is no silence", output::outage_is_no_silence),
    ("ids of a transform and a reducer behind it are unique", output::stage_ids),
    ("ids of timers are unique", output::timer_ids),
];

/// Fails a case unless something holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
