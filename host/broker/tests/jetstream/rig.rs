//! One server, one connection, one pipeline: what every test starts from.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_broker::testing::Server;
use pelton_broker::{Broker, Log, LogOptions, Producer, ProvisionOptions, Target, up};
use pelton_engine::epoch::{
    DeltaWriter, Epoch, Marker, MarkerFields, Position, Records, Section, SnapshotPart, StreamIdentity, layout_of,
};
use pelton_engine::log::{Fence, Fetched, Hole, Published, Request, Response, Snapshot, StoredMarker, Survey};
use pelton_engine::plan::{
    CreateStream, EventOrder, Key, Limits, Output, OutputStream, Plan, Source, Time, TimeUnit, Watermark,
};
use pelton_engine::time::Span;

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) broker: Broker,
    pub(crate) plan: Plan,
}

impl Rig {
    pub(crate) async fn new(partitions: u32) -> Rig {
        Rig::with(partitions, &ProvisionOptions::default(), "").await
    }

    pub(crate) async fn with(partitions: u32, options: &ProvisionOptions, config: &str) -> Rig {
        let server = Server::start_with(config);
        let broker = server.connect().await.expect("connected");
        Rig::on(server, broker, partitions, options).await
    }

    pub(crate) async fn on(server: Server, broker: Broker, partitions: u32, options: &ProvisionOptions) -> Rig {
        let plan = plan(partitions);
        let made = up(&broker, &plan, options).await.expect("provisioned");
        assert_eq!(made.drift, []);
        Rig { server, broker, plan }
    }

    pub(crate) fn log(&self, partition: u32) -> Log {
        self.log_with(partition, LogOptions::default())
    }

    pub(crate) fn log_with(&self, partition: u32, options: LogOptions) -> Log {
        Log::new(&self.broker, Target::new(&self.plan, partition), options)
    }

    /// Publishes over a plain socket: header bytes that no client library would send. Waits until it is stored.
    pub(crate) fn produce_raw(&self, subject: &str, headers: &[u8], payload: &[u8]) {
        let mut raw = Raw::connect(&self.server);
        let answer = raw.request(subject, headers, payload);
        assert!(answer.contains("\"seq\""), "not stored: {answer}");
    }

    /// Publishes `count` events `e<from>`, … through the ingest subject.
    pub(crate) async fn produce(&self, from: usize, count: usize) {
        let mut producer = Producer::new(&self.broker).await.expect("producer");
        for idx in from..from + count {
            producer.publish(format!("plays.in.k{}", idx % 100), format!("e{idx}").into()).await.expect("published");
        }
        producer.flush().await.expect("all stored");
    }
}

/// A connection that speaks the protocol by hand.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) fn connect(server: &Server) -> Raw {
        let url = server.url();
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        let mut raw = Raw { stream: BufReader::new(stream) };
        assert!(raw.line().starts_with("INFO "));
        raw.send(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB answers 1\r\n");
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line comes");
        line
    }

    /// Publishes with a reply and reads the answer.
    pub(crate) fn request(&mut self, subject: &str, headers: &[u8], payload: &[u8]) -> String {
        let total = headers.len() + payload.len();
        self.send(format!("HPUB {subject} answers {} {total}\r\n", headers.len()).as_bytes());
        self.send(&[headers, payload, b"\r\n"].concat());
        while !self.line().starts_with("MSG answers") {}
        self.line()
    }

    /// Publishes and waits until the server has passed it on.
    pub(crate) fn publish(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        let total = headers.len() + payload.len();
        self.send(format!("HPUB {subject} {} {total}\r\n", headers.len()).as_bytes());
        self.send(&[headers, payload, b"\r\nPING\r\n"].concat());
        while !self.line().starts_with("PONG") {}
    }
}

pub(crate) fn plan(partitions: u32) -> Plan {
    let subject = if partitions > 1 { "plays.{partition}" } else { "plays.0" };
    Plan {
        name: "fraud".to_string(),
        source: Source {
            stream: "PLAYS".to_string(),
            subject: subject.to_string(),
            partitions,
            create: Some(CreateStream { ingest: Some("plays.in.*".to_string()), max_age: None, max_bytes: None }),
            key: Key::SubjectToken(0),
            time: Time { field: vec!["ts".to_string()], unit: TimeUnit::Millis },
            watermark: Watermark {
                delay: Span::from_secs(1),
                idle_timeout: None,
                max_future: Span::from_secs(60),
                max_past: Span::from_secs(86_400),
            },
            order: EventOrder::Arrival,
            dedupe: None,
            fields: Vec::new(),
        },
        stages: Vec::new(),
        outputs: vec![Output {
            name: "alerts".to_string(),
            stage: 0,
            port: 0,
            stream: Some(OutputStream { subject: "fraud.alerts.{key}".to_string(), name: "ALERTS".to_string() }),
        }],
        limits: Limits::default(),
    }
}

/// The first epoch of a partition.
pub(crate) fn first_epoch(records: Records, delta: Vec<u8>) -> Arc<Epoch> {
    epoch(None, records, delta)
}

/// The epoch after `previous`, with a nonce of its own.
pub(crate) fn next_epoch(previous: &Epoch, records: Records, delta: Vec<u8>) -> Arc<Epoch> {
    epoch(Some(&previous.marker), records, delta)
}

fn epoch(before: Option<&Marker>, records: Records, delta: Vec<u8>) -> Arc<Epoch> {
    let number = before.map_or(0, |before| before.epoch) + 1;
    let prev_nonce = before.map_or(0, |before| before.nonce);
    let fields = MarkerFields {
        epoch: number,
        nonce: before.map_or(100, |before| before.nonce + 1),
        prev_nonce,
        input: StreamIdentity { name: "PLAYS".to_string(), created: 1 },
        position: Position { sequence: number, fingerprint: number },
        read_through: number,
        pipeline_stream: StreamIdentity { name: "PELTON".to_string(), created: 1 },
        lease: before.map_or(7, |before| before.lease),
        sections: LAYOUTS.map(section).to_vec(),
        ..MarkerFields::default()
    };
    Arc::new(Epoch::new(fields, before, records, delta))
}

/// Texts of the layouts of the sections that every epoch has; they are called the same.
pub(crate) const LAYOUTS: [&str; 2] = ["core", "farm"];

fn section(name: &str) -> Section {
    Section { name: name.to_string(), operator: name.to_string(), layout: layout_of(name), epoch: 1, bytes: 0 }
}

/// Stores a snapshot of these sections after an epoch.
pub(crate) async fn save(log: &Log, epoch: &Epoch, sequence: u64, sections: [&[u8]; 2]) -> Response {
    let mut state = Vec::new();
    let mut delta = DeltaWriter::new(&mut state);
    (0..).zip(sections).for_each(|(section, bytes)| delta.part(section, true, |out| out.extend(bytes)));
    let snapshot = Snapshot { stored: StoredMarker { sequence, marker: epoch.marker.clone() }, state };
    let layouts = LAYOUTS.map(str::to_string).to_vec();
    log.perform(Request::SaveSnapshot { snapshot: snapshot.into(), layouts }).await
}

/// Reads a part, answer by answer.
pub(crate) async fn read_part(log: &Log, part: &SnapshotPart) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < part.bytes {
        match log.perform(Request::ReadPart { part: part.clone(), offset: bytes.len() as u64 }).await {
            Response::PartRead(more) => {
                assert!((1..=ANSWER_MAX).contains(&more.len()), "an answer of {} bytes", more.len());
                bytes.extend(more);
            }
            Response::Damaged(reason) => return Err(reason),
            other => panic!("{other:?}"),
        }
    }
    Ok(bytes)
}

/// Bytes that one answer may have: what a link of 1 Mbit/s carries in half of the time that an answer may take.
const ANSWER_MAX: usize = 512 << 10;

/// The fence behind an epoch that was stored at `sequence`.
pub(crate) fn fence_after(epoch: &Epoch, sequence: u64) -> Fence {
    Fence { sequence, slot: Some(epoch.marker.slot()) }
}

pub(crate) const FIRST: Fence = Fence { sequence: 0, slot: None };

pub(crate) async fn publish(log: &Log, epoch: &Arc<Epoch>, fence: Fence) -> Published {
    match log.perform(Request::Publish { epoch: Arc::clone(epoch), fence }).await {
        Response::Published(published) => published,
        other => panic!("{other:?}"),
    }
}

/// Publishes an epoch that must land; its sequence.
pub(crate) async fn stored(log: &Log, epoch: &Arc<Epoch>, fence: Fence) -> u64 {
    match publish(log, epoch, fence).await {
        Published::Stored { sequence } => sequence,
        other => panic!("epoch {}: {other:?}", epoch.marker.epoch),
    }
}

pub(crate) async fn survey(log: &Log, input_sequence: Option<u64>, epoch: Option<u64>) -> Survey {
    match log.perform(Request::Survey { input_sequence, epoch, history: false }).await {
        Response::Survey(survey) => *survey,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn last_marker(log: &Log) -> Option<StoredMarker> {
    survey(log, None, None).await.marker
}

pub(crate) async fn reset(log: &Log, next: u64) {
    let response = log.perform(Request::Reset { next, read_through: next.saturating_sub(1) }).await;
    assert!(matches!(response, Response::Reset), "{response:?}");
}

pub(crate) async fn fetch(log: &Log, events: u32) -> Fetched {
    match log.perform(Request::Fetch { events, bytes: 8 << 20 }).await {
        Response::Fetched(fetched) => fetched,
        other => panic!("{other:?}"),
    }
}

/// What a reader got: sequences and payloads in order, and how often it was restarted.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) sequences: Vec<u64>,
    pub(crate) payloads: Vec<String>,
    /// Header blocks of the events that no client can read, by sequence.
    pub(crate) unreadable: BTreeMap<u64, Vec<u8>>,
    pub(crate) holes: Vec<Hole>,
    pub(crate) restarts: usize,
    /// The last answer said that nothing is left.
    pub(crate) caught_up: bool,
}

/// Fetches until at least `count` events came, up to `events` at a time; tolerates answers that say
/// "not now".
pub(crate) async fn read(log: &Log, count: usize, events: u32) -> Read {
    read_until(log, events, Lost::Ignored, |read| read.sequences.len() >= count).await
}

/// Fetches until `count` events came and leaves what is behind them, however few the broker gives
/// at a time.
pub(crate) async fn read_exactly(log: &Log, count: u32) -> Read {
    let missing = |read: &Read| count - read.sequences.len() as u32;
    read_while(log, Lost::Ignored, |read| Some(missing(read)).filter(|&events| events > 0)).await
}

/// Fetches until the broker says that nothing is left.
pub(crate) async fn read_all(log: &Log) -> Read {
    read_until(log, 1000, Lost::Ignored, |read| read.caught_up).await
}

/// What a reader does when the consumer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Ignored,
    /// As the machine: it looks at the streams and resets to where it stands.
    Reset,
}

pub(crate) async fn read_until(log: &Log, events: u32, lost: Lost, is_done: impl Fn(&Read) -> bool) -> Read {
    read_while(log, lost, |read| (!is_done(read)).then_some(events)).await
}

/// Fetches as long as `next` says how many events to ask for.
async fn read_while(log: &Log, lost: Lost, next: impl Fn(&Read) -> Option<u32>) -> Read {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut read = Read::default();
    while let Some(events) = next(&read) {
        assert!(Instant::now() < deadline, "only {} events came", read.sequences.len());
        match log.perform(Request::Fetch { events, bytes: 8 << 20 }).await {
            Response::Fetched(fetched) => {
                read.take(&fetched);
                if fetched.restarted && lost == Lost::Reset {
                    reset_behind(log, read.sequences.last().copied().unwrap_or(0)).await;
                }
            }
            Response::Unavailable(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
    read
}

/// Resets to behind `last`, however often the broker has to be asked.
pub(crate) async fn reset_behind(log: &Log, last: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !matches!(log.perform(Request::Reset { next: last + 1, read_through: last }).await, Response::Reset) {
        assert!(Instant::now() < deadline, "cannot be reset");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Read {
    fn take(&mut self, fetched: &Fetched) {
        self.restarts += usize::from(fetched.restarted);
        self.caught_up = fetched.caught_up;
        self.holes.extend(&fetched.holes);
        for event in &fetched.batch.events {
            self.sequences.push(event.sequence);
            let payload = fetched.batch.slice(&event.payload);
            self.payloads.push(String::from_utf8_lossy(payload).into_owned());
            if event.unreadable {
                self.unreadable.insert(event.sequence, fetched.batch.slice(&event.headers).to_vec());
            }
        }
    }

    /// Every sequence of the range exactly once, in order.
    pub(crate) fn assert_whole(&self, from: u64, count: usize) {
        let expected: Vec<u64> = (from..from + count as u64).collect();
        assert_eq!(self.sequences.len(), expected.len());
        assert!(self.sequences == expected, "sequences are not {from}.. in order");
    }
}
