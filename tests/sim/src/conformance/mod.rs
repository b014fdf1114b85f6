//! One suite for the double of the log and for a real server: what the protocol takes for granted, as probes.
//!
//! Implement [`LogUnderTest`] and give it to [`run_one`] with each of the [`cases`]. Every case gets fresh streams and
//! two clients, which stand for two processes. Here the double runs; `host/broker/tests/jetstream/conformance.rs` runs a
//! real server behind the production adapter. Every case runs on both: what one of them cannot do is no case.

mod cases;
mod double;

use std::sync::Arc;

use pelton_engine::epoch::{Channel, Epoch, MarkerFields, Records, Section, StreamIdentity, layout_of};
use pelton_engine::log::{Fence, Fetched, Published, Request, Response, StoredMarker, Survey};

pub use double::Double;

/// Something that happens to the broker from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Input messages below this sequence expire.
    ExpireInput {
        first: u64,
    },
    /// One input message is deleted.
    DeleteInput {
        sequence: u64,
    },
    /// From now on the input keeps only so many messages of a subject.
    LimitSubject {
        messages: u64,
    },
    /// The input stream is deleted and made again.
    RecreateInput,
    /// What both streams hold now is what a roll-back brings back.
    Remember,
    /// The input loses its tail: the broker was down and is as remembered.
    RollBackInput,
    /// The same with the pipeline stream.
    RollBackLog,
    /// The pipeline stream is purged; sequences go on.
    PurgeLog,
    /// The pipeline stream is deleted and made again.
    RecreateLog,
    DeleteConsumer,
    /// Deliveries that are under way arrive.
    Settle,
    /// Deliveries without an ack are overdue.
    AckWait,
    /// Time passes: longer than a lease.
    LeaseTime,
}

/// A broker with one partition and two clients.
pub trait LogUnderTest {
    /// Carries out a request of one of the clients 0 and 1; asks again while the answer is "not now".
    fn perform(&mut self, client: usize, request: Request) -> Response;

    /// Publishes an input message and returns its sequence.
    fn produce(&mut self, payload: &[u8]) -> u64;

    /// Publishes a message of the input stream that is not of the partition, and returns its sequence.
    fn produce_other(&mut self, payload: &[u8]) -> u64;

    /// Lets it happen, and returns when it has.
    fn disturb(&mut self, what: Disturbance);
}

/// What a case says when a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

/// A case: what must hold, and the probe.
pub type Case = (&'static str, fn(&mut Probe<'_>) -> Result<(), Broken>);

/// Every rule with its probe.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::CASES
}

/// Runs one case.
///
/// # Errors
/// When the log does not keep the rule.
pub fn run_one(log: &mut dyn LogUnderTest, (_, probe): &Case) -> Result<(), Broken> {
    probe(&mut Probe { log })
}

/// Fetches after which a case gives up.
const FETCHES_MAX: usize = 60;

/// What cases use.
pub struct Probe<'a> {
    log: &'a mut dyn LogUnderTest,
}

/// Fails a case unless something holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what())) }
}

impl Probe<'_> {
    fn ask(&mut self, client: usize, request: Request) -> Response {
        self.log.perform(client, request)
    }

    fn disturb(&mut self, what: Disturbance) {
        self.log.disturb(what);
    }

    fn publish(&mut self, epoch: &Arc<Epoch>, fence: Fence) -> Result<Published, Broken> {
        match self.ask(0, Request::Publish { epoch: epoch.clone(), fence }) {
            Response::Published(published) => Ok(published),
            other => Err(Broken(format!("publish answered {other:?}"))),
        }
    }

    /// Publishes behind `head` and insists on success.
    fn commit(&mut self, epoch: &Arc<Epoch>, head: Option<&StoredMarker>) -> Result<StoredMarker, Broken> {
        match self.publish(epoch, fence(head))? {
            Published::Stored { sequence } => Ok(StoredMarker { sequence, marker: epoch.marker.clone() }),
            other => Err(Broken(format!("epoch {} was not stored: {other:?}", epoch.marker.epoch))),
        }
    }

    /// Epochs 1 to `count`, one behind the other.
    fn chain(&mut self, count: u64) -> Result<Vec<StoredMarker>, Broken> {
        let mut chain: Vec<StoredMarker> = Vec::new();
        for number in 1..=count {
            let stored = self.commit(&epoch(number, 100 + u128::from(number), 1), chain.last())?;
            chain.push(stored);
        }
        Ok(chain)
    }

    fn survey(&mut self, input_sequence: Option<u64>, epoch: Option<u64>) -> Result<Survey, Broken> {
        match self.ask(0, Request::Survey { input_sequence, epoch, history: false }) {
            Response::Survey(survey) => Ok(*survey),
            other => Err(Broken(format!("survey answered {other:?}"))),
        }
    }

    fn produce(&mut self, count: u64) -> u64 {
        (0..count).map(|idx| self.log.produce(format!("{{\"n\":{idx}}}").as_bytes())).last().unwrap_or(0)
    }

    fn produce_other(&mut self, count: u64) -> u64 {
        (0..count).map(|idx| self.log.produce_other(format!("{{\"other\":{idx}}}").as_bytes())).last().unwrap_or(0)
    }

    fn reset(&mut self, client: usize, next: u64) -> Result<(), Broken> {
        self.reset_behind(client, next, next.saturating_sub(1))
    }

    fn reset_behind(&mut self, client: usize, next: u64, read_through: u64) -> Result<(), Broken> {
        let response = self.ask(client, Request::Reset { next, read_through });
        ensure(matches!(response, Response::Reset), || format!("reset answered {response:?}"))
    }

    fn fetch(&mut self, client: usize) -> Result<Fetched, Broken> {
        match self.ask(client, Request::Fetch { events: 10, bytes: 1 << 20 }) {
            Response::Fetched(fetched) => Ok(fetched),
            other => Err(Broken(format!("fetch answered {other:?}"))),
        }
    }

    /// The next answer that has events.
    fn fetch_some(&mut self, client: usize) -> Result<Fetched, Broken> {
        for _ in 0..FETCHES_MAX {
            let fetched = self.fetch(client)?;
            if !fetched.batch.events.is_empty() {
                return Ok(fetched);
            }
        }
        Err(Broken("no event comes".into()))
    }

    /// Fetches until `count` events are there or nothing more comes; also whether a restart was said.
    fn drain(&mut self, client: usize, count: usize) -> Result<(Vec<u64>, bool), Broken> {
        let (mut sequences, mut restarted) = (Vec::new(), false);
        for _ in 0..FETCHES_MAX {
            let fetched = self.fetch(client)?;
            restarted |= fetched.restarted;
            sequences.extend(fetched.batch.events.iter().map(|event| event.sequence));
            if sequences.len() >= count {
                break;
            }
        }
        Ok((sequences, restarted))
    }
}

/// The fence behind a marker.
fn fence(head: Option<&StoredMarker>) -> Fence {
    Fence { sequence: head.map_or(0, |head| head.sequence), slot: head.map(|head| head.marker.slot()) }
}

/// Texts of the layouts of the two sections that every epoch has.
const LAYOUTS: [&str; 2] = ["core", "stage"];

/// An epoch with so many records. Its nonce also stands for its process, so it decides the slot.
fn epoch(number: u64, nonce: u128, records: usize) -> Arc<Epoch> {
    with_headers(number, nonce, records, b"Pelton-Id: x\r\n")
}

fn section(name: &str) -> Section {
    Section { name: name.into(), operator: name.into(), layout: layout_of(name), epoch: 1, bytes: 0 }
}

/// The same with these headers on every record.
fn with_headers(number: u64, nonce: u128, records: usize, headers: &[u8]) -> Arc<Epoch> {
    let mut rows = Records::default();
    for idx in 0..records {
        rows.push(Channel::Output(0), b"out.main", headers, format!("{number}/{idx}").as_bytes());
    }
    let delta = format!("state of epoch {number} by {nonce}").into_bytes();
    let fields = MarkerFields {
        epoch: number,
        nonce: nonce << 64,
        input: StreamIdentity { name: "IN".into(), created: 1 },
        pipeline_stream: StreamIdentity { name: "PELTON_sim".into(), created: 1 },
        lease: 7,
        sections: LAYOUTS.map(section).to_vec(),
        ..MarkerFields::default()
    };
    Arc::new(Epoch::new(fields, None, rows, delta))
}
