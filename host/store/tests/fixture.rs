//! A chain of epochs that depends on nothing but the epoch number, so that any process knows what must be stored.

use pelton_engine::epoch::{Channel, Epoch, MarkerFields, Position, Records, StreamIdentity};
use pelton_engine::log::{Snapshot, StoredMarker};
use pelton_engine::store::{HISTORY_MAX, Local, Past};
use pelton_engine::totals::Totals;
use pelton_store::Options;

/// The reference run: epochs 1, 2, 3, … and the state after each of them.
pub(crate) struct Chain {
    epochs: Vec<Epoch>,
    delta_bytes: usize,
}

/// No reserve, so that a small disk does not decide about tests.
pub(crate) fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

impl Chain {
    /// Deltas of up to `delta_bytes`.
    pub(crate) fn new(delta_bytes: usize) -> Chain {
        Chain { epochs: Vec::new(), delta_bytes }
    }

    pub(crate) fn epoch(&mut self, epoch: u64) -> &Epoch {
        while (self.epochs.len() as u64) < epoch {
            let next = self.next();
            self.epochs.push(next);
        }
        &self.epochs[epoch as usize - 1]
    }

    pub(crate) fn sequence(epoch: u64) -> u64 {
        epoch * 7
    }

    pub(crate) fn sink(epoch: u64) -> Vec<u8> {
        format!("alerts={}", epoch * 1000).into_bytes()
    }

    pub(crate) fn stored(&mut self, epoch: u64) -> StoredMarker {
        StoredMarker { sequence: Chain::sequence(epoch), marker: self.epoch(epoch).marker.clone() }
    }

    pub(crate) fn snapshot(&mut self, epoch: u64) -> Snapshot {
        let stored = self.stored(epoch);
        let count = mix(epoch, 5) as usize % (4 * self.delta_bytes).max(1);
        Snapshot { state: bytes(epoch ^ 0xaaaa, count), stored }
    }

    pub(crate) fn past(&mut self, epoch: u64) -> Past {
        let marker = &self.epoch(epoch).marker;
        Past { epoch, nonce: marker.nonce, position: marker.position, sequence: Chain::sequence(epoch) }
    }

    /// Fails unless `local` is exactly the end of one epoch of this run. Gives that epoch.
    #[track_caller]
    pub(crate) fn verify(&mut self, local: &Local) -> u64 {
        let head = local.head.marker.epoch;
        assert_eq!(local.head, self.stored(head));
        let from = local.snapshot.as_ref().map_or(0, |snapshot| snapshot.stored.marker.epoch);
        if let Some(snapshot) = &local.snapshot {
            assert_eq!(*snapshot, self.snapshot(from));
        }
        assert_eq!(local.deltas.len() as u64, head - from);
        for (delta, epoch) in local.deltas.iter().zip(from + 1..) {
            assert_eq!(*delta, self.epoch(epoch).delta, "delta of epoch {epoch}");
        }
        let first = local.history.first().map_or(head + 1, |past| past.epoch);
        assert!(local.history.len() <= HISTORY_MAX);
        assert_eq!(local.history.len() as u64, head + 1 - first);
        for past in &local.history {
            assert_eq!(*past, self.past(past.epoch));
        }
        if !local.sink.is_empty() {
            assert_eq!(local.sink, Chain::sink(head));
        }
        head
    }

    fn next(&self) -> Epoch {
        let before = self.epochs.last().map(|epoch| &epoch.marker);
        let number = self.epochs.len() as u64 + 1;
        let delta = bytes(number, mix(number, 1) as usize % self.delta_bytes.max(1));
        let mut records = Records::default();
        for row in 0..number % 4 {
            let payload = bytes(number ^ (row << 32), mix(number, row + 9) as usize % 900);
            let channel = [Channel::Output(row as u16), Channel::DeadLetter, Channel::Late][(number % 3) as usize];
            records.push(channel, b"out.alerts", b"Pelton-Epoch: 1\r\n", &payload);
        }
        let totals = Totals { received: number, processed: number, ..Totals::default() };
        let mut totals_sum = before.map_or(Totals::default(), |marker| marker.totals_sum);
        totals_sum.add(&totals);
        let fields = MarkerFields {
            epoch: number,
            nonce: nonce(number),
            prev_nonce: before.map_or(0, |marker| marker.nonce),
            input: StreamIdentity { name: "PLAYS".into(), created: 1_700_000_000 },
            position: Position { sequence: number * 100, fingerprint: mix(number, 2) },
            read_through: number * 100,
            watermark: number as i64 * 10 - 5,
            pipeline_stream: StreamIdentity { name: "PELTON".into(), created: 1 },
            lease: 4,
            totals,
            totals_sum,
            ..MarkerFields::default()
        };
        Epoch::new(fields, before, records, delta)
    }
}

fn nonce(epoch: u64) -> u128 {
    u128::from(mix(epoch, 3)) << 64 | u128::from(mix(epoch, 4))
}

/// A number that looks random and depends on both (splitmix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z =
        a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b.wrapping_mul(0xd1b5_4a32_d192_ed03)).wrapping_add(1);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes that differ from seed to seed.
pub(crate) fn bytes(seed: u64, count: usize) -> Vec<u8> {
    (0..count.div_ceil(8) as u64).flat_map(|idx| mix(seed, idx + 100).to_le_bytes()).take(count).collect()
}
