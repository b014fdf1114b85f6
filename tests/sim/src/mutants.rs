//! Named weaknesses, each of which the simulator must notice.

use pelton_engine::partition::Mutants;

use crate::log::LogMutants;
use crate::world::Weakness;
use crate::{runner, scripted};

/// One weakness and within how many seeds it must be caught; scripted cases are tried first.
pub struct Mutant {
    pub name: &'static str,
    pub weakness: Weakness,
    pub within: u64,
}

fn protocol(name: &'static str, within: u64, set: fn(&mut Mutants)) -> Mutant {
    let mut weakness = Weakness::default();
    set(&mut weakness.protocol);
    Mutant { name, weakness, within }
}

fn log(name: &'static str, within: u64, set: fn(&mut LogMutants)) -> Mutant {
    let mut weakness = Weakness::default();
    set(&mut weakness.log);
    Mutant { name, weakness, within }
}

/// Seeds that are known to need a safeguard, each with the name of the mutant that takes it away.
#[must_use]
pub fn regressions() -> Vec<(u64, &'static str)> {
    let lines = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).filter_map(|(seed, name)| Some((seed.parse().ok()?, name))).collect()
}

/// All that cases and seeds find. A slot without the run, and snapshots of a lost past, are left to the conformance
/// suite: 1 seed in 20,000 or fewer meets them.
#[must_use]
pub fn all() -> Vec<Mutant> {
    vec![
        protocol("no nonce", 2_000, |mutants| mutants.no_nonce = true),
        protocol("no idle re-check", 2_000, |mutants| mutants.no_idle_check = true),
        protocol("refused batch taken for stored", 200, |mutants| mutants.rejected_is_success = true),
        protocol("no answer taken for stored", 200, |mutants| mutants.unknown_is_success = true),
        protocol("take-over without reset", 200, |mutants| mutants.no_reset = true),
        protocol("no ancestor check", 2_000, |mutants| mutants.no_ancestor_check = true),
        protocol("repeated deliveries taken", 200, |mutants| mutants.keep_duplicates = true),
        protocol("no input check", 2_000, |mutants| mutants.no_input_check = true),
        protocol("snapshot of a moving state", 2_000, |mutants| mutants.late_snapshot = true),
        protocol("position of what was fetched", 200, |mutants| mutants.position_ahead = true),
        protocol("state kept behind a fence", 200, |mutants| mutants.keep_state_after_fence = true),
        protocol("replay without chain check", 100_000, |mutants| mutants.no_chain_check = true),
        protocol("lost fetch forgotten", 200, |mutants| mutants.forget_fetch = true),
        protocol("lost consumer ignored", 20_000, |mutants| mutants.ignore_restart = true),
        protocol("no look after the reset", 20_000, |mutants| mutants.no_second_look = true),
        protocol("delivered counts as read", 20_000, |mutants| mutants.delivered_is_read = true),
        log("no fence", 200, |mutants| mutants.no_fence = true),
        log("fence by sequence only", 20_000, |mutants| mutants.sequence_fence = true),
        log("deliveries told by numbers only", 2_000, |mutants| mutants.numbering_only = true),
        log("fence by slot only", 2_000, |mutants| mutants.slot_fence = true),
        log("batch not atomic", 200, |mutants| mutants.torn_batch = true),
        log("acknowledged on delivery", 200, |mutants| mutants.ack_on_delivery = true),
        protocol("fence of a marker that has moved", 0, |mutants| mutants.stale_fence = true),
        protocol("doubt resolved whatever the input is", 0, |mutants| mutants.doubt_ignores_input = true),
        protocol("replay without state hash", 0, |mutants| mutants.no_state_hash = true),
        protocol("holes not noticed", 200, |mutants| mutants.no_holes = true),
        protocol("lost events not counted", 200, |mutants| mutants.uncounted_loss = true),
        protocol("lost input skipped unasked", 200, |mutants| mutants.skip_unasked = true),
        protocol("repeats within a batch taken", 200, |mutants| mutants.repeats_in_batch = true),
        protocol("works without a lease", 2_000, |mutants| mutants.no_lease = true),
        protocol("pipeline stream made again taken for the old one", 2_000, |mutants| mutants.any_log = true),
        protocol("a quiet partition says nothing", 2_000, |mutants| mutants.quiet_says_nothing = true),
        protocol("an outage is silence", 0, |mutants| mutants.outage_is_silence = true),
        protocol("exit before all is committed", 200, |mutants| mutants.exit_early = true),
        protocol("counters of an epoch counted again", 200, |mutants| mutants.counters_kept = true),
        protocol("state of another layout read", 0, |mutants| mutants.any_layout = true),
        protocol("idle commits without something due", 2_000, |mutants| mutants.idle_always = true),
        protocol("snapshot without its hash", 0, |mutants| mutants.trust_snapshot = true),
        protocol("section from the parts of another one", 0, |mutants| mutants.mix_sections = true),
        protocol("permanent refusal tried again", 0, |mutants| mutants.retry_permanent = true),
        protocol("published again before the input is checked", 0, |mutants| mutants.republish_unchecked = true),
        protocol("snapshots counted from the last recovery", 0, |mutants| mutants.unsnapped_reset = true),
        protocol("no marker of the beginning", 2_000, |mutants| mutants.no_first_marker = true),
        protocol("clock not recorded", 200, |mutants| mutants.clock_unrecorded = true),
        protocol("events behind the clock in one epoch", 2_000, |mutants| mutants.clock_mid_epoch = true),
        protocol("held events lost", 200, |mutants| mutants.held_lost = true),
        protocol("useless host keeps the lease", 0, |mutants| mutants.keep_useless_lease = true),
        log("holes of a shared stream not asked for", 200, |mutants| mutants.shared_holes_unasked = true),
        log("holes told too short", 200, |mutants| mutants.short_holes = true),
        log("holes told too long", 200, |mutants| mutants.long_holes = true),
        log("proof forgotten", 2_000, |mutants| mutants.proof_is_forgotten = true),
        log("proof hides what is lost", 200, |mutants| mutants.proof_hides_loss = true),
        log("changes purged above the older snapshot", 2_000, |mutants| mutants.purge_above_snapshot = true),
        log("part of a kept snapshot deleted", 2_000, |mutants| mutants.drop_shared_parts = true),
        Mutant {
            name: "lease not renewed while the store works",
            weakness: Weakness { driver_forgets_lease: true, ..Weakness::default() },
            within: 200,
        },
        Mutant {
            name: "delta not in the budget of an epoch",
            weakness: Weakness { deltas_without_bound: true, ..Weakness::default() },
            within: 200,
        },
        Mutant {
            name: "position durable before state",
            weakness: Weakness { torn_store: true, ..Weakness::default() },
            within: 2_000,
        },
    ]
}

impl Mutant {
    /// What notices it: the first scripted case, else the first seed; how many seeds were tried.
    #[must_use]
    pub fn caught(&self, times: u64) -> (Option<String>, u64) {
        let known = regressions().into_iter().filter(|(_, name)| *name == self.name);
        for (seed, _) in known {
            if runner::guarded(seed, &self.weakness).failure.is_some() {
                return (Some(format!("known seed {seed}")), 1);
            }
        }
        let breaks = |(_, case): &&scripted::Case| runner::scripted(case, &self.weakness).is_err();
        if let Some((name, _)) = scripted::CASES.iter().find(breaks) {
            return (Some(format!("case: {name}")), 0);
        }
        let summary = runner::run(0, self.within * times, &self.weakness, 1);
        let first = summary.failures.first().map(|(seed, failure)| {
            let line = failure.lines().next().unwrap_or_default();
            format!("seed {seed}: {}", line.chars().take(110).collect::<String>())
        });
        (first, summary.seeds)
    }
}
