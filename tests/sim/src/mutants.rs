//! Named weaknesses, each of which the simulator must notice.

use pelton_engine::partition::Mutants;

use crate::log::LogMutants;
use crate::world::Weakness;

/// One weakness and within how many seeds it must be caught.
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

/// All that seeds find. A slot without the run is left to the conformance suite: 1 seed in 100,000 or fewer meets it.
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
        log("snapshots of a lost past kept", 20_000, |mutants| mutants.stale_snapshots = true),
        log("deliveries told by numbers only", 2_000, |mutants| mutants.numbering_only = true),
        log("fence by slot only", 2_000, |mutants| mutants.slot_fence = true),
        log("batch not atomic", 200, |mutants| mutants.torn_batch = true),
        log("acknowledged on delivery", 200, |mutants| mutants.ack_on_delivery = true),
        Mutant {
            name: "position durable before state",
            weakness: Weakness { torn_store: true, ..Weakness::default() },
            within: 2_000,
        },
    ]
}
