//! Faults as they strike, and the end of the storm.

use std::sync::atomic::Ordering;

use crate::faults::{Death, Fault};

use super::{HOSTS, What, World};

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, &[8], || format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash { host, when, power_cut } => match when {
                Death::Now => self.crash(host, power_cut),
                Death::AfterActions(count) => self.hosts[host].dies_in = Some(count),
                Death::InStore(calls) => {
                    let part = self.rng.below(u64::from(self.partitions())) as usize;
                    self.hosts[host].parts[part].store.dies_in = Some(calls);
                }
            },
            Fault::Pause { host, ms } => {
                self.tally.pauses += u64::from(ms > super::LEASE_TTL_MS);
                self.hosts[host].frozen_until = self.hosts[host].frozen_until.max(self.now + ms);
            }
            Fault::ClockJump { host, ms } => {
                self.tally.clock_jumps += 1;
                self.hosts[host].clock.offset += ms;
            }
            Fault::Pace { host, per_mille } => self.set_pace(host, per_mille),
            Fault::Outage { ms } => self.outage(ms),
            Fault::ReadExpires => {
                let seen = |partition| self.log.pipeline.head(partition).map_or(0, |(_, marker)| marker.read_through);
                let first = (0..self.partitions()).map(seen).min().unwrap_or(0) + 1;
                self.tally.expiries += u64::from(first > self.log.input.first());
                self.log.input.expire(first);
            }
            Fault::ConsumerDeleted => {
                self.tally.consumers_deleted += 1;
                (0..self.partitions()).for_each(|partition| self.log.delete_consumer(partition));
            }
            Fault::LeasesExpire => self.log.expire_leases(),
            Fault::DiskLost { host } => {
                self.tally.disks_lost += 1;
                self.crash(host, false);
                self.hosts[host].parts.iter_mut().for_each(|part| part.store.lose_all());
            }
            Fault::DiskDamaged { host } => {
                self.tally.disks_damaged += 1;
                self.hosts[host].parts.iter_mut().for_each(|part| part.store.corrupt());
            }
            Fault::DiskFull { host, writes } => {
                self.tally.disks_full += 1;
                self.hosts[host].parts.iter_mut().for_each(|part| part.store.failing = writes);
            }
            Fault::GuestStorm { ms } => {
                self.tally.guest_storms += 1;
                self.stormy_guests.store(true, Ordering::Relaxed);
                self.schedule(self.now + ms, What::Calm);
            }
            Fault::InputDeleted { back } => {
                self.tally.deleted += 1;
                self.log.input.remove(self.log.input.last().saturating_sub(back));
            }
            Fault::LogTail { .. } | Fault::LogAnew { .. } | Fault::LogExpired { .. } => self.strike_log(fault),
            Fault::InputTail { .. } | Fault::InputAnew | Fault::InputExpired { .. } => self.strike_input(fault),
        }
    }

    fn set_pace(&mut self, host: usize, per_mille: u64) {
        let shown = self.hosts[host].clock.read(self.now);
        let clock = &mut self.hosts[host].clock;
        clock.pace = per_mille;
        clock.offset = shown - (self.now * per_mille / 1000).min(shown);
        clock.offset += shown.saturating_sub(clock.read(self.now));
    }

    fn outage(&mut self, ms: u64) {
        self.tally.outages += 1;
        self.outage_until = self.outage_until.max(self.now + ms);
        self.cut_connections();
    }

    /// Every connection is lost: the broker has gone and comes back.
    fn cut_connections(&mut self) {
        for part in self.hosts.iter_mut().flat_map(|host| &mut host.parts) {
            part.adapter.broken = true;
        }
    }

    fn strike_log(&mut self, fault: Fault) {
        match fault {
            Fault::LogTail { epochs } => {
                let lost = self.log.pipeline.lose_tail(epochs);
                for part in 0..self.partitions() {
                    let read = self.read(part);
                    let lost_to = &mut self.lost_to[part as usize];
                    *lost_to = read.min(*lost_to);
                }
                self.tally.tail_losses += u64::from(lost > 0);
                self.tally.epochs_lost += lost;
                self.trace.note(self.now, &[lost], || format!("broker: lost {lost} epochs"));
            }
            // Something has to be left that remembers: without disk, consumer, snapshot and marker a partition is new.
            Fault::LogExpired { .. } if (0..self.partitions()).any(|partition| self.log.ack_floor(partition) == 0) => {}
            Fault::LogExpired { per_mille } => {
                self.tally.anew += 1;
                self.causes.extend(["markers-missing", "pipeline-stream-damaged", "epoch-chain-broken"]);
                let last = self.log.pipeline.last();
                self.log.pipeline.expire(last * per_mille / 1_000 + 1);
            }
            _ => {
                self.tally.anew += 1;
                // Before an event was read there is nothing to lose; events that were fetched count as read.
                self.causes.extend(["markers-missing"]);
                if self.committed.iter().any(|position| *position > 0) {
                    self.causes.extend(["pipeline-stream-recreated"]);
                }
                if fault == (Fault::LogAnew { keep_sequences: true }) {
                    self.log.pipeline.purge();
                } else {
                    self.log.pipeline.recreate();
                }
            }
        }
        // In a cluster the stream may change hands without any connection being lost.
        if self.rng.chance(500) {
            self.cut_connections();
        }
    }

    fn strike_input(&mut self, fault: Fault) {
        self.tally.input_faults += 1;
        self.is_input_whole &= matches!(fault, Fault::InputExpired { .. });
        let positions: Vec<u64> = (0..self.partitions())
            .map(|partition| self.log.pipeline.head(partition).map_or(0, |head| head.1.position.sequence))
            .collect();
        match fault {
            Fault::InputTail { messages } => {
                let last = self.log.input.last().saturating_sub(messages);
                self.log.input.lose_tail(last);
                self.causes.extend(["input-rolled-back"]);
                for (part, position) in positions.into_iter().enumerate() {
                    if position > last {
                        (self.must_halt[part], self.rolled_at[part]) = (true, position);
                    }
                }
            }
            Fault::InputAnew => {
                // Who has just looked at the old one may still say what it lost.
                if (0..self.partitions()).any(|partition| self.unread_loss(partition).is_some()) {
                    self.causes.extend(["input-gap"]);
                }
                self.log.input.recreate();
                self.causes.extend(["input-recreated"]);
                for (must, position) in self.must_halt.iter_mut().zip(positions) {
                    *must |= position > 0;
                }
            }
            Fault::InputExpired { messages } => {
                // Nobody has anything in memory: what expires was never read.
                (0..HOSTS).for_each(|host| self.crash(host, false));
                // Before its first epoch a partition begins wherever the stream begins.
                let is_begun = positions.iter().all(|position| *position > 0);
                let first =
                    positions.iter().max().map_or(0, |position| (position + 1 + messages) * u64::from(is_begun));
                self.log.input.expire(first);
            }
            _ => {}
        }
        (0..self.partitions()).for_each(|partition| self.log.delete_consumer(partition));
        // Who makes a stream again does so over a connection like all others.
        if fault != Fault::InputAnew || self.rng.chance(500) {
            self.cut_connections();
        }
    }

    /// The storm is over: nothing is lost any more, the lease is honest. A pause that has begun ends in its own time.
    pub(super) fn heal(&mut self) {
        self.trace.note(self.now, &[9], || "the storm is over".into());
        self.is_stormy = false;
        self.healed_at = self.now;
        self.outage_until = self.now;
        self.stormy_guests.store(false, Ordering::Relaxed);
        self.log.settings.broken_lease = false;
        if self.scenario.slow.is_some() {
            // What takes nearly as long as it may takes longer than it may on a fast clock.
            (0..HOSTS).for_each(|host| self.set_pace(host, 1_000));
        }
        for host in &mut self.hosts {
            host.dies_in = None;
            for part in &mut host.parts {
                (part.store.dies_in, part.store.failing) = (None, 0);
            }
        }
    }
}
