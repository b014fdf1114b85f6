//! Between host and broker: messages are lost, doubled, late, or meet a broker that does not answer.

use pelton_engine::epoch::Epoch;
use pelton_engine::log::{Published, Request, Response};
use pelton_engine::partition::Ticket;

use crate::audit;
use crate::log::Adapter;
use crate::scenario::Disaster;

use super::{NOTHING_TELLS, What, World};

/// An adapter gives up on an answer after this long.
const GIVES_UP_MS: u64 = 600;
/// So long after the storm everybody knows which streams there are.
const IDENTITY_MS: u64 = 15_000;
/// A fetch with nothing to deliver waits this long.
const FETCH_WAIT_MS: u64 = 40;

impl World {
    fn delay(&mut self) -> u64 {
        if self.is_stormy && self.rng.chance(self.scenario.late) {
            self.tally.late += 1;
            let most = if self.rng.chance(200) { 6_000 } else { 400 };
            return self.rng.range(5, most);
        }
        self.rng.range(0, 4)
    }

    /// A request leaves a host. Fetch and reset keep their order and are never lost on the way out: they are calls
    /// within the process, only their answers travel.
    pub(super) fn send(&mut self, host: usize, part: usize, life: u64, ticket: Ticket, request: Request) {
        self.trace.note(self.now, &[6, host as u64, ticket], || {
            format!("  host {host}/{part} -> #{ticket} {}", short(&request))
        });
        // What a call of the store wants done leaves when it is over.
        let mut at = self.now.max(self.hosts[host].parts[part].busy_until) + self.delay();
        if matches!(request, Request::Fetch { .. } | Request::Reset { .. }) {
            let here = &mut self.hosts[host].parts[part];
            at = at.max(here.ordered_until);
            here.ordered_until = at;
        } else if self.is_stormy {
            if self.rng.chance(self.scenario.loss) {
                self.tally.lost += 1;
                return self.give_up(host, part, life, ticket, &request);
            }
            if self.rng.chance(self.scenario.double) {
                self.tally.doubled += 1;
                let again = at + self.delay();
                self.schedule(again, What::Request { host, part, life, ticket, request: request.clone() });
            }
        }
        self.schedule(at, What::Request { host, part, life, ticket, request });
    }

    /// No answer came: the adapter says so after a while, or nobody says anything.
    fn give_up(&mut self, host: usize, part: usize, life: u64, ticket: Ticket, request: &Request) {
        if self.rng.chance(500) {
            return;
        }
        let response = match request {
            Request::Publish { .. } => Response::Published(Published::Unknown("no answer in time".into())),
            _ => Response::Unavailable("no answer in time".into()),
        };
        self.schedule(self.now + GIVES_UP_MS, What::Answer { host, part, life, ticket, response });
    }

    /// A request reaches the broker.
    pub(super) fn request(&mut self, host: usize, part: usize, life: u64, ticket: Ticket, request: Request) {
        let is_current = self.hosts[host].alive && self.hosts[host].life == life;
        if self.now < self.outage_until {
            if is_current {
                self.give_up(host, part, life, ticket, &request);
            }
            return;
        }
        let before = self.log.pipeline.entries(part as u32).len();
        let response = if let Request::SaveSnapshot { snapshot, layouts } = &request
            && self.rng.chance(self.scenario.unsaved)
        {
            self.tally.unsaved += 1;
            let (parts_max, mutants) = (self.rng.range(0, 20) as usize, self.log.settings.mutants);
            self.log.pipeline.save_snapshot(part as u32, (snapshot, layouts), parts_max, self.now, mutants)
        } else if is_current {
            let mut adapter = self.hosts[host].parts[part].adapter.clone();
            let response = self.log.perform(&mut adapter, &request, self.now);
            self.hosts[host].parts[part].adapter = adapter;
            response
        } else if matches!(request, Request::Fetch { .. } | Request::Reset { .. }) {
            return;
        } else {
            // The process is gone, its message was still under way.
            self.log.perform(&mut Adapter::new(part as u32, u64::MAX - life), &request, self.now)
        };
        self.observe(host, part, &request, &response, before);
        if !is_current {
            return;
        }
        if self.is_stormy && self.rng.chance(self.scenario.loss) {
            self.tally.lost += 1;
            // What a fetch has delivered is gone with its answer: the adapter cannot know, and says nothing.
            if !matches!(request, Request::Fetch { .. } | Request::Reset { .. }) {
                self.give_up(host, part, life, ticket, &request);
            }
            return;
        }
        let mut at = self.now + self.delay() + self.slowness(&request);
        if let Response::Fetched(fetched) = &response
            && fetched.batch.events.is_empty()
        {
            at += FETCH_WAIT_MS;
        }
        if self.is_stormy && self.rng.chance(self.scenario.double) {
            let again = at + self.delay();
            self.schedule(again, What::Answer { host, part, life, ticket, response: response.clone() });
        }
        self.schedule(at, What::Answer { host, part, life, ticket, response });
    }

    /// How much longer than others a request takes. What no host would wait for heals with the storm.
    fn slowness(&self, request: &Request) -> u64 {
        let slow = self.scenario.slow.filter(|(kind, _)| kind.concerns(request));
        let ms = slow.map_or(0, |(_, ms)| ms);
        if ms < self.scenario.config.answer_ms || self.is_stormy { ms } else { 0 }
    }

    /// Invariants that are seen at the broker.
    fn observe(&mut self, host: usize, part: usize, request: &Request, response: &Response, before: usize) {
        let partition = part as u32;
        match (request, response) {
            (Request::Publish { epoch, .. }, Response::Published(published)) => {
                let entries = self.log.pipeline.entries(partition);
                let landed = entries.len() > before;
                self.trace.note(self.now, &[7, epoch.marker.epoch, u64::from(landed)], || {
                    let marker = &epoch.marker;
                    format!(
                        "broker: epoch {} of host {host}/{part} at {}: {published:?}",
                        marker.epoch, marker.position.sequence
                    )
                });
                self.tally.rejections += u64::from(matches!(published, Published::Rejected(_)));
                if landed && entries[before].torn.is_none() {
                    self.landed(host, part, before, epoch);
                }
            }
            (Request::Ack { sequence }, _) if *sequence > self.committed[part] => {
                self.fail(format!("I10 partition {part}: acknowledged {sequence}, committed {}", self.committed[part]));
            }
            (Request::Survey { history, .. }, Response::Survey(survey)) => {
                self.looked_at[host][part] = self.read(partition);
                if *history {
                    let is_acknowledged = survey.ack_floor > 0 && survey.ack_floor >= survey.input.first_sequence;
                    self.is_told[host][part] = is_acknowledged || survey.snapshot_epoch.is_some();
                }
            }
            (Request::AcquireLease, Response::LeaseHeld { .. }) => {
                let other = &self.hosts[1 - host].parts[part];
                self.tally.lease_losses += u64::from(
                    self.hosts[1 - host].alive
                        && other.machine.as_ref().is_some_and(|machine| machine.committed().is_some()),
                );
            }
            _ => {}
        }
        if self.weakness.log.ack_on_delivery && matches!(response, Response::Fetched(_)) {
            let floor = self.log.ack_floor(partition);
            if floor > self.committed[part] {
                self.fail(format!("I10 partition {part}: acknowledged {floor}, committed {}", self.committed[part]));
            }
        }
    }
}

impl World {
    /// A host without a store cannot know that markers have expired when no acknowledgement and no snapshot told of them
    /// when it last looked.
    fn nothing_tells(&self, host: usize, part: usize) -> bool {
        self.scenario.disaster == Disaster::LogExpired && !self.is_told[host][part]
    }

    /// A batch has been taken: is it the right one, and in the right stream?
    fn landed(&mut self, host: usize, part: usize, before: usize, epoch: &Epoch) {
        let (partition, marker) = (part as u32, &epoch.marker);
        self.tally.epochs += 1;
        self.tally.events_lost += marker.totals.lost;
        self.looked_at[host][part] = u64::MAX;
        // Who looked before the stream was made again commits to it under the old one's identity, and keeps that.
        if marker.pipeline_stream.created != self.log.pipeline.created() {
            self.causes.insert("pipeline-stream-recreated");
        }
        let entries = self.log.pipeline.entries(partition);
        let last = entries[..before].iter().rev().find(|entry| entry.torn.is_none());
        let last = last.map(|entry| &entry.epoch.marker);
        let held_before = last.map_or(0, |last| last.totals.held);
        let is_empty = marker.totals.received == 0 && marker.records == 0 && marker.totals.held == held_before;
        let is_idle = !marker.clock.is_empty();
        (self.empty[part], self.tally.idle) =
            (self.empty[part] + u64::from(is_empty), self.tally.idle + u64::from(is_idle));
        if epoch.marker.epoch == 1 && last.is_some() && self.nothing_tells(host, part) {
            return self.fail(NOTHING_TELLS.into());
        }
        let begin = audit::begin(entries.first().map(|entry| &entry.epoch.marker), &self.log.input);
        if let Err(broken) = audit::landed((last, begin), epoch, partition, &self.log.input, self.is_input_whole) {
            self.fail(broken);
        }
        let streams = (self.log.input.created(), self.log.pipeline.created());
        let is_late = !self.is_stormy && self.now > self.healed_at + IDENTITY_MS;
        if is_late && streams != (marker.input.created, marker.pipeline_stream.created) {
            self.fail(format!("I17 partition {part}, epoch {}: it is of other streams than {streams:?}", marker.epoch));
        }
        self.committed[part] = self.committed[part].max(marker.position.sequence);
    }
}

/// A request in a few words.
fn short(request: &Request) -> String {
    match request {
        Request::Publish { epoch, fence } => {
            let marker = &epoch.marker;
            format!(
                "publish epoch {} ({:x}) at {} behind {} {:?}",
                marker.epoch, marker.nonce, marker.position.sequence, fence.sequence, fence.slot
            )
        }
        Request::SaveSnapshot { snapshot, .. } => format!("save snapshot of epoch {}", snapshot.stored.marker.epoch),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// An answer in a few words.
pub(super) fn short_response(response: &Response) -> String {
    let marker = |marker: &pelton_engine::epoch::Marker| format!("epoch {} ({:x})", marker.epoch, marker.nonce);
    match response {
        Response::Survey(survey) => format!(
            "input {}..={}, newest {}",
            survey.input.first_sequence,
            survey.input.last_sequence,
            survey.marker.as_ref().map_or("none".into(), |stored| format!(
                "{} @{}",
                marker(&stored.marker),
                stored.sequence
            ))
        ),
        Response::Changes(changes) => {
            format!("changes of {:?}", changes.iter().map(|change| change.stored.marker.epoch).collect::<Vec<_>>())
        }
        Response::SnapshotFound(found) => {
            format!("snapshot {:?}", found.as_ref().map(|found| marker(&found.marker)))
        }
        Response::PartRead(bytes) => format!("{} bytes of the part", bytes.len()),
        Response::Fetched(fetched) => {
            let sequences: Vec<_> = fetched.batch.events.iter().map(|event| event.sequence).collect();
            let holes = if fetched.holes.is_empty() { String::new() } else { format!(" {:?}", fetched.holes) };
            format!("events {sequences:?}{holes}{}", if fetched.restarted { " restarted" } else { "" })
        }
        other => format!("{other:?}"),
    }
}
