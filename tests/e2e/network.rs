//! Chaos: the network between host and broker fails in one way after the other, and the result is that of a calm run.
//!
//! `PELTON_CHAOS_FAULTS`, `PELTON_CHAOS_FAULT_MS`, `PELTON_CHAOS_EVENTS` and `PELTON_CHAOS_SEED` make it longer or
//! another one.

use std::collections::BTreeMap;

use crate::broker::Broker;
use crate::process::until;
use crate::proxy::{Fault, Proxy, Way};
use crate::scene::Dice;
use crate::stage::{Blows, Rounds, Stage, pause, setting};

const FAULTS: u64 = 16;
const EVENTS: u64 = 100_000;
/// Longest time that a fault lasts.
const FAULT_MS: u64 = 1500;
/// In each eight faults, one leaves the connection half-open; the host needs some seconds to find that out.
const KINDS: u64 = 8;

fn fault(idx: u64, dice: &mut Dice) -> Fault {
    let way = if (idx / KINDS).is_multiple_of(2) { Way::ToHost } else { Way::ToBroker };
    let other = if way == Way::ToHost { Way::ToBroker } else { Way::ToHost };
    match idx % KINDS {
        0 => Fault::Silence(way),
        1 | 2 => Fault::Cut,
        3 => Fault::Refuse,
        4 => Fault::Delay(way, 1 + dice.below(200)),
        5 => Fault::Delay(other, 1 + dice.below(200)),
        6 => Fault::Throttle(way, 16 + dice.below(500)),
        _ => Fault::Throttle(other, 16 + dice.below(500)),
    }
}

#[test]
fn chaos_a_bad_network_leaves_no_trace() {
    let (faults, events) = (setting("PELTON_CHAOS_FAULTS", FAULTS), setting("PELTON_CHAOS_EVENTS", EVENTS));
    let (fault_ms, seed) = (setting("PELTON_CHAOS_FAULT_MS", FAULT_MS), setting("PELTON_CHAOS_SEED", 4));
    println!("PELTON_CHAOS_SEED={seed}");
    let stage = Stage::new(Broker::start(), events, 2000, seed);
    let calm = stage.calm();
    let proxy = Proxy::start(stage.broker.url());
    let mut rounds = Rounds::new(&stage, &calm);
    rounds.detour = Some(proxy.url());
    let mut dice = Dice::new(seed);
    let mut schedule: Vec<Fault> = (0..faults).map(|idx| fault(idx, &mut dice)).collect();
    dice.shuffle(&mut schedule);
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for fault in schedule {
        // A host that was done before the fault was over may have missed it: once more, in the next round.
        loop {
            rounds.ensure_work();
            proxy.begin(fault);
            pause(dice.below(fault_ms));
            until("the host gives a half-open connection up", || proxy.all_heard().then_some(()));
            let missed = !rounds.is_running();
            proxy.end();
            // Whatever it was, the host goes on by itself.
            rounds.ensure_work();
            if !missed {
                break;
            }
        }
        let kind = format!("{fault:?}");
        *done.entry(kind.split(',').next().unwrap_or_default().replace('(', " ").replace(')', "")).or_default() += 1;
    }
    rounds.ensure_work();
    rounds.end_host();
    let blows = Blows { proxy_faults: done.values().sum(), ..Blows::default() };
    rounds.tell(&format!("bad network (seed {seed}): {done:?}"), &blows);
}
