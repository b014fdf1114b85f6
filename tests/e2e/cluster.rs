//! Chaos: a cluster of three brokers loses one node at a time, and the result is that of a calm run.
//!
//! `PELTON_CHAOS_NODE_KILLS`, `PELTON_CHAOS_CLUSTER_EVENTS` and `PELTON_CHAOS_SEED` make it longer or another one.

use crate::broker::Broker;
use crate::scene::Dice;
use crate::stage::{Blows, Rounds, Stage, pause, setting};

/// Each node once.
const NODE_KILLS: u64 = 3;
const EVENTS: u64 = 20_000;

#[test]
fn chaos_a_cluster_that_loses_one_node_at_a_time_loses_no_epoch() {
    let (kills, events) =
        (setting("PELTON_CHAOS_NODE_KILLS", NODE_KILLS), setting("PELTON_CHAOS_CLUSTER_EVENTS", EVENTS));
    let seed = setting("PELTON_CHAOS_SEED", 3);
    println!("PELTON_CHAOS_SEED={seed}");
    let stage = Stage::new(Broker::cluster(), events, 300, seed);
    let calm = stage.calm();
    let watcher = stage.broker.watcher();
    let mut dice = Dice::new(seed);
    let mut rounds = Rounds::new(&stage, &calm);
    let first = dice.below(3);
    let mut done = 0;
    while done < kills {
        let node = ((first + done) % 3) as usize;
        rounds.ensure_work();
        pause(dice.below(300));
        stage.broker.kill_node(node);
        // Two of three are enough to go on.
        let from = rounds.committed();
        let goes_on = rounds.watch(from + 1);
        pause(dice.below(300));
        stage.broker.restart_node(node);
        stage.broker.wait_for_copies(&watcher);
        if goes_on {
            done += 1;
        } else {
            // It was done before the node was missed: that was no test.
            rounds.end_host();
        }
    }
    rounds.ensure_work();
    rounds.end_host();
    let blows = Blows { node_kills: kills, ..Blows::default() };
    rounds.tell(&format!("nodes of a cluster killed in turn (seed {seed})"), &blows);
}
