//! What a pipeline stream holds: its records, compared byte for byte, and its markers, checked as a chain.

use std::collections::BTreeMap;

use pelton_engine::epoch::{Ledger, Marker};
use pelton_engine::totals::Totals;

use crate::broker::Broker;
use crate::scene::{Alert, alerts};

/// A record as the pipeline wrote it; what the broker adds is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Below the prefix, such as `out.alerts.u1`.
    subject: String,
    /// Sorted.
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

/// The records of one partition in the order of the stream, and its markers: the oldest go when snapshots are stored.
pub(crate) struct Dump {
    records: Vec<Record>,
    pub(crate) markers: Vec<Marker>,
    /// Of every epoch, as long as the input lasts.
    pub(crate) ledger: Vec<Ledger>,
    /// Records that come after the first of the markers.
    after_first: u64,
}

impl Dump {
    /// Reads partition 0 of a pipeline.
    pub(crate) fn read(broker: &Broker, pipeline: &str) -> Dump {
        let prefix = format!("pelton.{pipeline}.0.");
        let mut dump = Dump { records: Vec::new(), markers: Vec::new(), ledger: Vec::new(), after_first: 0 };
        for message in broker.messages(&pelton_broker::log_stream(pipeline)) {
            let subject = message.subject.strip_prefix(&prefix).expect("a subject of the pipeline").to_owned();
            match subject.split('.').next() {
                Some("out" | "dlq" | "late") => {
                    let headers = message.headers.iter().flat_map(|headers| headers.iter());
                    let mut headers: Vec<(String, String)> = headers
                        .flat_map(|(name, values)| {
                            values.iter().map(move |value| (name.to_string(), value.to_string()))
                        })
                        .filter(|(name, _)| !name.starts_with("Nats-"))
                        .collect();
                    headers.sort();
                    dump.after_first += u64::from(!dump.markers.is_empty());
                    dump.records.push(Record { subject, headers, payload: message.payload.to_vec() });
                }
                Some("marker") => dump.markers.push(Marker::decode(&message.payload).expect("a marker")),
                Some("ledger") => dump.ledger.push(serde_json::from_slice(&message.payload).expect("a ledger record")),
                Some("delta") => {}
                _ => panic!("a message on {}", message.subject),
            }
        }
        dump
    }

    fn of(&self, channel: &str) -> Vec<&Record> {
        self.records.iter().filter(|record| record.subject.starts_with(channel)).collect()
    }

    pub(crate) fn count(&self, channel: &str) -> usize {
        self.of(channel).len()
    }

    /// How many epochs were committed.
    pub(crate) fn epochs(&self) -> usize {
        self.markers.last().map_or(0, |marker| marker.epoch as usize)
    }

    /// What lies in a channel, in order.
    pub(crate) fn payloads(&self, channel: &str) -> Vec<String> {
        let text = |record: &Record| String::from_utf8(record.payload.clone()).expect("payloads of tests are text");
        self.of(channel).into_iter().map(text).collect()
    }

    /// Sorted.
    pub(crate) fn alerts(&self) -> Vec<Alert> {
        alerts(self.of("out.").into_iter().map(|record| record.payload.as_slice()))
    }

    /// Dead letters by code.
    pub(crate) fn dead(&self) -> BTreeMap<String, usize> {
        let mut codes = BTreeMap::new();
        for record in self.of("dlq.") {
            let code = record.subject.rsplit('.').next().unwrap_or_default();
            *codes.entry(code.to_owned()).or_default() += 1;
        }
        codes
    }

    /// Asserts that both hold the same records in the same order.
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Dump) {
        for channel in ["out.", "dlq.", "late."] {
            let (left, right) = (self.of(channel), other.of(channel));
            let different = left.iter().zip(&right).position(|(left, right)| left != right);
            if let Some(idx) = different {
                panic!("{channel} {idx}: {:?}\nand {:?}", left[idx], right[idx]);
            }
            assert_eq!(left.len(), right.len(), "records in {channel}");
        }
        let order = |dump: &Dump| dump.records.iter().map(|record| record.subject.clone()).collect::<Vec<_>>();
        assert_eq!(order(self), order(other), "order over all subjects");
    }

    /// Asserts that no epoch is lost or another one that was seen in the stream before.
    #[track_caller]
    pub(crate) fn assert_holds(&self, seen: &BTreeMap<u64, u128>) {
        let held: BTreeMap<u64, u128> = self.markers.iter().map(|marker| (marker.epoch, marker.nonce)).collect();
        let first = held.keys().next().copied().unwrap_or(0);
        for (epoch, nonce) in seen.range(first..) {
            assert_eq!(held.get(epoch), Some(nonce), "epoch {epoch} was committed, and is not what it was");
        }
    }

    /// Asserts that the markers are one chain that accounts for every event.
    #[track_caller]
    pub(crate) fn assert_chain(&self, events: u64) {
        let first = self.markers.first().expect("at least one epoch");
        assert_eq!(first.epoch == 1, first.prev_nonce == 0, "only the first epoch follows nothing");
        let epochs = self.ledger.iter().map(|record| record.epoch);
        assert!(epochs.eq(1..=self.epochs() as u64), "the ledger has each epoch once, in order");
        let said = self.ledger.iter().skip(first.epoch as usize - 1);
        assert!(said.eq(&self.markers.iter().map(Ledger::of).collect::<Vec<_>>()), "the ledger says what markers say");
        let ledger = self.ledger.iter().fold(Totals::default(), |sum, record| sum.and(&record.totals));
        for pair in self.markers.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert_eq!(after.follows(Some(before)), Ok(()), "markers are one chain");
            assert!(before.position.sequence <= after.position.sequence, "epoch {} goes back", after.epoch);
            assert!(before.watermark <= after.watermark, "the watermark of epoch {} goes back", after.epoch);
            let mut sum = before.totals_sum;
            sum.add(&after.totals);
            assert_eq!(sum, after.totals_sum, "totals of epoch {}", after.epoch);
            assert!(after.totals.balanced(before.totals.held), "epoch {}: {:?}", after.epoch, after.totals);
        }
        assert!(self.markers.iter().all(|marker| marker.totals_sum.balanced(0)));
        let last = self.markers.last().expect("at least one epoch");
        assert_eq!(last.totals_sum.received, events, "every event, once");
        assert_eq!(ledger, last.totals_sum, "the ledger adds up");
        // Records before the first marker are those of its epoch, and of epochs whose markers are gone.
        let records: u64 = self.markers.iter().skip(1).map(|marker| u64::from(marker.records)).sum();
        assert_eq!(records, self.after_first, "the records that the markers count");
        let before = self.records.len() as u64 - self.after_first;
        let is_whole = before == u64::from(first.records) || first.epoch > 1;
        assert!(is_whole, "{before} records before the first marker, which counts {}", first.records);
    }
}
