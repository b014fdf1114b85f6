//! The verdict: what must be true when everything has calmed down.

use pelton_engine::partition::Halted;

use crate::audit;
use crate::oracle::{self, Expected};
use crate::scenario::Disaster;

use super::{HOSTS, What, World};

/// After the storm everything is worked off within this time.
const SETTLE_MS: u64 = 40_000;
/// A host that must halt has done so within this time, and does nothing afterwards.
const HALT_MS: u64 = 15_000;
const LOOK_MS: u64 = 100;
/// Longer than the interval of the idle check on the slowest clock, and a recovery.
const NOTICE_MS: u64 = 6_000;

impl World {
    /// A machine has halted: only the disaster of this seed may be the reason.
    pub(super) fn halted(&mut self, host: usize, part: usize, halted: &Halted) {
        self.tally.halts += 1;
        let allowed: &[&str] = match self.scenario.disaster {
            Disaster::None | Disaster::LogTail => &[],
            Disaster::LogAnew => &["markers-gone", "log-recreated"],
            Disaster::InputTail => &["input-rolled-back"],
            Disaster::InputAnew => &["input-recreated"],
            Disaster::InputExpired => &["input-gap"],
        };
        let seen = self.log.pipeline.head(part as u32).map_or(0, |(_, marker)| marker.seen);
        let is_gap = self.log.input.first() > seen + 1;
        if !allowed.contains(&halted.code) || (halted.code == "input-gap" && !is_gap) {
            self.fail(format!("host {host}/{part} halted with {}: {}", halted.code, halted.evidence));
        }
    }

    /// Waits for the work to be done, compares, starts once more to drain, compares again.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let awake = self.hosts.iter().map(|host| host.frozen_until).fold(self.now, u64::max);
        self.run_until(awake)?;
        if self.must_halt.contains(&true) {
            return self.settle_halted();
        }
        let deadline = self.now + SETTLE_MS;
        while !self.is_settled() {
            if self.now >= deadline {
                return Err(format!("I12 not settled {} s after the storm: {}", SETTLE_MS / 1000, self.lag()));
            }
            self.run_until(self.now + LOOK_MS)?;
        }
        // Whoever holds a state of a lost past notices now.
        self.run_until(self.now + NOTICE_MS)?;
        if !self.is_settled() {
            return Err(format!("I12 settled, then no longer: {}", self.lag()));
        }
        let expected: Vec<Expected> = (0..self.partitions())
            .map(|partition| oracle::expected(&self.scenario, partition, &self.log.input, 1))
            .collect();
        for partition in 0..self.partitions() {
            self.compare(partition, &expected[partition as usize])?;
        }
        if self.any_halt() {
            return Ok(());
        }
        self.end()?;
        for partition in 0..self.partitions() {
            let (entries, expected) = (self.log.pipeline.entries(partition), &expected[partition as usize]);
            audit::same_records(&self.scenario, entries, expected).map_err(|text| format!("after the end: {text}"))?;
            let totals = entries.last().map(|entry| entry.epoch.marker.totals_sum).unwrap_or_default();
            if totals != expected.totals {
                return Err(format!("totals {totals:?}, expected {:?}", expected.totals));
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        (0..self.partitions()).all(|partition| {
            let head = self.log.pipeline.head(partition).map_or(0, |(_, marker)| marker.position.sequence);
            head == self.log.input.last_of(partition) || self.is_halted(partition)
        })
    }

    fn is_halted(&self, partition: u32) -> bool {
        self.hosts.iter().any(|host| host.parts[partition as usize].halted.is_some())
    }

    fn any_halt(&self) -> bool {
        (0..self.partitions()).any(|partition| self.is_halted(partition))
    }

    fn lag(&self) -> String {
        let part = |partition| {
            let head = self
                .log
                .pipeline
                .head(partition)
                .map_or((0, 0), |(_, marker)| (marker.epoch, marker.position.sequence));
            format!("partition {partition} is at epoch {}, {} of {}", head.0, head.1, self.log.input.last_of(partition))
        };
        (0..self.partitions()).map(part).collect::<Vec<_>>().join(", ")
    }

    /// Records and state against the sequential run; what hosts hold in memory against both.
    fn compare(&mut self, partition: u32, expected: &Expected) -> Result<(), String> {
        if self.is_halted(partition) {
            return Ok(());
        }
        let entries = self.log.pipeline.entries(partition);
        audit::same_records(&self.scenario, entries, expected)?;
        if self.scenario.nondeterministic && self.scenario.worlds.contains(&pelton_engine::guest::World::Reducer) {
            audit::linked_states(entries)?;
        }
        let state = audit::same_state(&self.scenario, partition, entries, expected)?;
        let head = self.log.pipeline.head(partition).map(|(_, marker)| (marker.position.sequence, marker.epoch));
        for (idx, host) in self.hosts.iter_mut().enumerate() {
            let Some(machine) = &mut host.parts[partition as usize].machine else { continue };
            if machine.committed() == head
                && head.is_some()
                && let Some(held) = machine.snapshot()
                && held != state
            {
                let (held, state) = (held.escape_ascii(), state.escape_ascii());
                return Err(format!(
                    "I15 host {idx}/{partition} holds another state than the stream at {head:?}:\n  host   {held}\n  stream {state}"
                ));
            }
        }
        Ok(())
    }

    /// All processes end; one host starts again, finds nothing left to do and ends by itself.
    fn end(&mut self) -> Result<(), String> {
        self.trace.note(self.now, &[10], || "drain".into());
        self.drain = true;
        for host in &mut self.hosts {
            host.alive = false;
            host.parts.iter_mut().for_each(|part| part.machine = None);
        }
        self.agenda.clear();
        let host = self.rng.below(HOSTS as u64) as usize;
        self.log.expire_leases();
        self.schedule(self.now, What::Start { host });
        let deadline = self.now + SETTLE_MS;
        self.run_until(self.now + LOOK_MS)?;
        // A host that slept through a disaster may find out only now.
        while !self.hosts[host].parts.iter().all(|part| part.stopped || part.halted.is_some()) {
            if self.now >= deadline {
                return Err(format!("I12 the end of the input is not worked off: {}", self.lag()));
            }
            self.run_until(self.now + LOOK_MS)?;
        }
        Ok(())
    }

    /// Consumed messages are gone: every partition that it concerns halts and stays where it is.
    fn settle_halted(&mut self) -> Result<(), String> {
        self.run_until(self.now + HALT_MS)?;
        let heads = |world: &World| -> Vec<_> {
            let concerned = (0..world.partitions()).filter(|&partition| world.must_halt[partition as usize]);
            concerned.map(|partition| world.log.pipeline.head(partition).map(|(sequence, _)| sequence)).collect()
        };
        for partition in 0..self.partitions() {
            if self.must_halt[partition as usize] && !self.is_halted(partition) {
                return Err(format!(
                    "partition {partition} went on although its input is not what it was: {}",
                    self.lag()
                ));
            }
        }
        let before = heads(self);
        self.run_until(self.now + HALT_MS / 2)?;
        if heads(self) == before { Ok(()) } else { Err("a halted partition went on".into()) }
    }
}
