//! The verdict: what must be true when everything has calmed down.

use pelton_engine::partition::Halted;

use crate::audit;
use crate::host::Host;
use crate::log::Message;
use crate::oracle::{self, Expected};
use crate::scenario::{Disaster, EPOCH_MS};

use super::{HOSTS, What, World};

/// After the storm everything is worked off within this time.
const SETTLE_MS: u64 = 40_000;
/// The same when a kind of request, or the store, always takes long.
const SETTLE_SLOW_MS: u64 = 600_000;
/// A host that must halt has done so within this time, and does nothing afterwards.
const HALT_MS: u64 = 15_000;
const LOOK_MS: u64 = 100;
/// Longer than the interval of the idle check on the slowest clock, and a recovery.
const NOTICE_MS: u64 = 6_000;
/// Longer than the slowest commit takes.
const DRY_MS: u64 = 4_000;
/// Requests of a rebuild, and tries with a store that fails at first, roughly.
const REBUILD_REQUESTS: u64 = 10;
const REBUILD_TRIES: u64 = 3;
/// In calm weather nobody recovers within this time.
const CALM_MS: u64 = 6_000;
/// Epochs without an event and without a record: one more in so many milliseconds at most.
const EMPTY_MS: u64 = 500;

impl World {
    /// A machine has halted: something that has happened must be the reason.
    pub(super) fn halted(&mut self, host: usize, part: usize, halted: &Halted) {
        self.tally.halts += 1;
        let is_caused = match halted.code.name() {
            "input-gap" if self.scenario.config.accept_loss => false,
            // Who looks while the stream lacks its tail sees what was read by it as unread, until it is published again.
            "input-gap" => {
                let read = self.read(part as u32).min(self.lost_to[part]).min(self.looked_at[host][part]);
                self.causes.contains("input-gap") || self.loss_behind(read, part as u32).is_some()
            }
            code => self.causes.contains(code),
        };
        if !is_caused {
            self.fail(format!("host {host}/{part} halted with {}: {}", halted.code, halted.evidence));
        }
    }

    /// The first message that is lost before it was read, as far as the stream shows: where others share it, theirs count.
    pub(super) fn unread_loss(&self, partition: u32) -> Option<u64> {
        self.loss_behind(self.read(partition), partition)
    }

    /// Up to where nothing is unread, as the stream shows it.
    pub(super) fn read(&self, partition: u32) -> u64 {
        // What a marker says of another input of the same name is nothing about this one.
        let created = self.log.input.created();
        let head = self.log.pipeline.head(partition).filter(|(_, marker)| marker.input.created == created);
        head.map_or(0, |(_, marker)| marker.position.sequence.max(marker.read_through))
    }

    fn loss_behind(&self, read: u64, partition: u32) -> Option<u64> {
        let input = &self.log.input;
        let is_shared = input.is_shared() || self.partitions() > 1;
        (read + 1..=input.last()).find(|&sequence| {
            let is_ours = input.at(sequence).is_some_and(|message| is_shared || message.partition == partition);
            let is_expired = sequence < input.first() || input.is_limited_per_subject();
            is_ours && is_expired && input.get(sequence).is_none()
        })
    }

    /// Waits for the work to be done, compares, starts once more to catch up and exit, compares again.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let awake = self.hosts.iter().map(|host| host.frozen_until).fold(self.now, u64::max);
        self.run_until(awake)?;
        if self.must_halt.contains(&true) {
            return self.settle_halted();
        }
        self.work_off()?;
        self.run_dry()?;
        // Whoever holds a state of a lost past notices now; and a host that had halted may have died since, so that
        // another one has to come to the same end.
        self.run_until(self.now + NOTICE_MS)?;
        self.work_off()?;
        self.calm()?;
        for partition in 0..self.partitions() {
            self.compare(partition)?;
        }
        if self.any_halt() {
            return self.stays_halted();
        }
        self.end()?;
        for partition in 0..self.partitions() {
            let entries = self.log.pipeline.entries(partition);
            let expected = oracle::along(&self.scenario, partition, &self.log.input, entries);
            audit::same_records(&self.scenario, entries, &expected).map_err(|text| format!("after the end: {text}"))?;
            audit::unique_ids(entries)?;
            let totals = entries.last().map(|entry| entry.epoch.marker.totals_sum).unwrap_or_default();
            if totals != expected.totals {
                return Err(format!("totals {totals:?}, expected {:?}", expected.totals));
            }
            if let Some(counted) = entries.last().map(|entry| entry.epoch.marker.counter_sums())
                && !counted.iter().map(|(name, sum)| (name, sum)).eq(&expected.counters)
            {
                return Err(format!("counters {counted:?}, expected {:?}", expected.counters));
            }
        }
        Ok(())
    }

    fn settle_ms(&self) -> u64 {
        if self.is_slow() { SETTLE_SLOW_MS } else { SETTLE_MS }
    }

    fn is_slow(&self) -> bool {
        self.scenario.slow.is_some() || self.scenario.cost != Default::default()
    }

    fn work_off(&mut self) -> Result<(), String> {
        let deadline = self.now + self.settle_ms();
        while !self.is_settled() {
            if self.now >= deadline {
                let seconds = self.settle_ms() / 1000;
                return Err(format!("I12 not settled {seconds} s after the storm: {}", self.lag()));
            }
            self.run_until(self.now + LOOK_MS)?;
        }
        Ok(())
    }

    /// What became due without an event may take many epochs where publishing is slow.
    fn run_dry(&mut self) -> Result<(), String> {
        let epochs = |world: &World| -> usize {
            (0..world.partitions()).map(|partition| world.log.pipeline.entries(partition).len()).sum()
        };
        let deadline = self.now + self.settle_ms();
        // A host may be at a rebuild meanwhile: it asks for many things one after the other, and its store takes its time
        // at each try.
        let (slow, cost) = (self.scenario.slow.map_or(0, |(_, ms)| ms), &self.scenario.cost);
        let dry = DRY_MS + REBUILD_REQUESTS * slow + REBUILD_TRIES * (cost.load + cost.rebase);
        let mut last = (epochs(self), self.now);
        while self.is_slow() && self.now < deadline && self.now < last.1 + dry {
            self.run_until(self.now + LOOK_MS)?;
            if epochs(self) != last.0 {
                last = (epochs(self), self.now);
            }
        }
        Ok(())
    }

    /// How many hosts work on a partition.
    fn working(&self, partition: u32) -> usize {
        let machines = self.hosts.iter().filter_map(|host| host.parts[partition as usize].machine.as_ref());
        machines.filter(|machine| machine.committed().is_some()).count()
    }

    /// In calm weather one host works on each partition, nobody starts over, and nothing is committed without a reason.
    fn calm(&mut self) -> Result<(), String> {
        if self.any_halt() || self.scenario.cost != Default::default() {
            return Ok(());
        }
        // Reading a state may take its time, and who has read it may find that the stream has gone on.
        let deadline = self.now + self.settle_ms();
        while self.now < deadline && !self.any_halt() && (0..self.partitions()).any(|part| self.working(part) == 0) {
            self.run_until(self.now + LOOK_MS)?;
        }
        if self.any_halt() {
            return Ok(());
        }
        let before = self.recoveries;
        self.run_until(self.now + CALM_MS)?;
        if self.recoveries > before {
            return Err(format!("I18 {} recoveries in calm weather", self.recoveries - before));
        }
        for part in 0..self.partitions() as usize {
            let working = self.working(part as u32);
            // Reading a state may take its time; two at work may not be.
            let is_quick = self.scenario.slow.is_none() && self.scenario.disaster != Disaster::LogExpired;
            if working > 1 || (working == 0 && is_quick) {
                return Err(format!("I18 {working} hosts work on partition {part} in calm weather"));
            }
            let most = 8 + 2 * self.runs[part] + self.now / EMPTY_MS;
            if self.empty[part] > most {
                return Err(format!(
                    "I19 partition {part}: {} epochs that say nothing, {most} are enough",
                    self.empty[part]
                ));
            }
        }
        Ok(())
    }

    /// A partition that halted before what it has not read does so again, and nothing behind that is committed.
    fn stays_halted(&mut self) -> Result<(), String> {
        let lost = |world: &World| -> Vec<Option<u64>> {
            (0..world.partitions()).map(|partition| world.own_loss(partition)).collect()
        };
        let before = lost(self);
        self.start_anew(false);
        self.run_until(self.now + HALT_MS)?;
        for (partition, unread) in before.iter().enumerate().filter_map(|(part, unread)| Some((part, (*unread)?))) {
            let partition = partition as u32;
            let head = self.log.pipeline.head(partition).map_or(0, |(_, marker)| marker.position.sequence);
            let input = &self.log.input;
            // A hole inside comes with what lies behind it; without that nobody has gone on, and nobody sees it.
            let is_behind = |sequence| input.get(sequence).is_some_and(|message| message.partition == partition);
            let is_shown = unread < input.first() || (unread..=input.last()).any(is_behind);
            if head >= unread || is_shown && !self.is_halted(partition) {
                return Err(format!(
                    "partition {partition} went on behind {unread}, which it never read: {}",
                    self.lag()
                ));
            }
        }
        Ok(())
    }

    /// The first message of the partition itself that is lost, where that made it halt for good.
    fn own_loss(&self, partition: u32) -> Option<u64> {
        let input = &self.log.input;
        let is_ours = |sequence: &u64| input.at(*sequence).is_some_and(|message| message.partition == partition);
        let halts = |host: &Host| host.parts[partition as usize].halted == Some("input-gap");
        // What a lost tail holds was read once, and may be published again.
        let is_kept = !matches!(self.scenario.disaster, Disaster::LogTail | Disaster::LogAnew | Disaster::LogExpired);
        let is_final = is_kept && self.is_input_whole && self.hosts.iter().any(halts);
        let first = self.unread_loss(partition).filter(|_| is_final)?;
        (first..=input.last()).find(|sequence| is_ours(sequence) && input.get(*sequence).is_none())
    }

    fn is_settled(&self) -> bool {
        (0..self.partitions()).all(|partition| {
            let head = self.log.pipeline.head(partition).map_or(0, |(_, marker)| marker.position.sequence);
            let begin = audit::begin(
                self.log.pipeline.entries(partition).first().map(|entry| &entry.epoch.marker),
                &self.log.input,
            );
            head.max(begin) >= self.log.input.last_of(partition) || self.is_halted(partition)
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
    fn compare(&mut self, partition: u32) -> Result<(), String> {
        let entries = self.log.pipeline.entries(partition);
        let expected: Expected = oracle::along(&self.scenario, partition, &self.log.input, entries);
        let expected = &expected;
        audit::unique_ids(entries)?;
        if self.is_halted(partition) && !self.is_input_whole {
            return Ok(());
        }
        if self.is_halted(partition) {
            // The rest of what its last event brings about may be missing.
            return audit::first_records(&self.scenario, entries, expected).map(drop);
        }
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

    /// Every process ends; one host, or each, starts again.
    fn start_anew(&mut self, exit_when_caught_up: bool) -> usize {
        self.exit_when_caught_up = exit_when_caught_up;
        for host in &mut self.hosts {
            host.alive = false;
            host.parts.iter_mut().for_each(|part| part.machine = None);
        }
        self.agenda.clear();
        self.log.expire_leases();
        let host = self.rng.below(HOSTS as u64) as usize;
        self.schedule(self.now, What::Start { host });
        host
    }

    /// All processes end, and some events come; one host starts again, works them off and ends by itself.
    fn end(&mut self) -> Result<(), String> {
        self.trace.note(self.now, &[10], || "exit when caught up".into());
        for idx in 0..self.scenario.last_events {
            let partition = (idx % u64::from(self.partitions())) as u32;
            let time = EPOCH_MS + self.now as i64;
            let payload = format!("{{\"k\":\"k{partition}\",\"t\":{time},\"v\":{idx}}}");
            self.log.input.publish(Message::new(partition, time, payload.as_bytes()));
        }
        let host = self.start_anew(true);
        let deadline = self.now + self.settle_ms();
        self.run_until(self.now + LOOK_MS)?;
        // A host that slept through a disaster may find out only now.
        while !self.hosts[host].parts.iter().all(|part| part.stopped || part.halted.is_some()) {
            if self.now >= deadline {
                return Err(format!("I12 the end of the input is not worked off: {}", self.lag()));
            }
            self.run_until(self.now + LOOK_MS)?;
        }
        if !self.is_settled() {
            return Err(format!("I12 exited, and yet not at the end: {}", self.lag()));
        }
        Ok(())
    }

    /// Consumed messages are gone: every partition that it concerns halts and stays where it is.
    fn settle_halted(&mut self) -> Result<(), String> {
        self.run_until(self.now + if self.is_slow() { 4 * HALT_MS } else { HALT_MS })?;
        // Where the message at the position is gone since, nothing shows it any more.
        let must = |world: &World, partition: u32| {
            let (part, input) = (partition as usize, &world.log.input);
            let at = world.rolled_at[part];
            world.must_halt[part] && (at == 0 || input.last() < at || input.get(at).is_some())
        };
        let heads = |world: &World| -> Vec<_> {
            let concerned = (0..world.partitions()).filter(|&partition| must(world, partition));
            concerned.map(|partition| world.log.pipeline.head(partition).map(|(sequence, _)| sequence)).collect()
        };
        for partition in 0..self.partitions() {
            if must(self, partition) && !self.is_halted(partition) {
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
