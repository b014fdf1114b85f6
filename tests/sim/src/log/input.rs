//! The input stream: messages of all partitions, and of others, under one run of sequences.
//!
//! Messages go away in every way a stream has: purged from the front, deleted one by one, by their own time to live,
//! by a limit on number, age or number per subject. What is gone stays in memory: the account of a run needs it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use pelton_engine::epoch::{StreamIdentity, fingerprint};
use pelton_engine::log::StreamFacts;

/// Stands in place of a partition for messages that are of none: the stream has other subjects, too.
pub const OTHERS: u32 = u32::MAX;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Whose it is; [`OTHERS`] for nobody's.
    pub partition: u32,
    /// Last token of its subject, below the one of the partition: limits per subject count by it.
    pub token: u32,
    /// When the broker stored it, milliseconds since the Unix epoch.
    pub published: i64,
    /// When its own time to live is over, on the same clock.
    pub dies: Option<i64>,
    pub payload: Arc<[u8]>,
}

impl Message {
    /// A message without a life of its own.
    #[must_use]
    pub fn new(partition: u32, published: i64, payload: &[u8]) -> Message {
        Message { partition, token: 0, published, dies: None, payload: payload.into() }
    }
}

/// What the stream deletes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub messages: Option<u64>,
    pub age_ms: Option<i64>,
    pub per_subject: Option<u64>,
}

struct Stored {
    message: Message,
    is_gone: bool,
}

/// A stream with limits retention.
pub struct Input {
    identity: StreamIdentity,
    /// Sequence `idx + 1`, those that are gone included.
    messages: Vec<Stored>,
    first: u64,
    held: u64,
    retention: Retention,
    /// Its subjects are not exactly one partition's.
    is_shared: bool,
    /// Messages that were deleted one by one, and behind which nothing was left to deliver: nobody has to tell of them.
    excused: BTreeSet<u64>,
    /// Sequences by the end of their own time to live.
    mortal: BinaryHeap<Reverse<(i64, u64)>>,
    /// Sequences per subject, oldest first; some may be gone.
    by_subject: BTreeMap<(u32, u32), VecDeque<u64>>,
}

impl Input {
    /// An empty stream.
    #[must_use]
    pub fn new(created: i64) -> Input {
        Input {
            identity: StreamIdentity { name: "IN".into(), created },
            messages: Vec::new(),
            first: 1,
            held: 0,
            retention: Retention::default(),
            is_shared: false,
            excused: BTreeSet::new(),
            mortal: BinaryHeap::new(),
            by_subject: BTreeMap::new(),
        }
    }

    /// Sets what it deletes by itself, from the next message on.
    pub fn limit(&mut self, retention: Retention) {
        self.retention = retention;
        self.by_subject.keys().copied().collect::<Vec<_>>().into_iter().for_each(|subject| self.thin(subject));
    }

    /// Its configuration has subjects beside those of one partition.
    pub fn share(&mut self) {
        self.is_shared = true;
    }

    /// Whether its configuration has subjects beside those of one partition.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether it keeps only so many messages of a subject.
    #[must_use]
    pub fn is_limited_per_subject(&self) -> bool {
        self.retention.per_subject.is_some()
    }

    /// Appends a message and returns its sequence; whatever the limits say goes.
    pub fn publish(&mut self, message: Message) -> u64 {
        let sequence = self.last() + 1;
        let (subject, published) = ((message.partition, message.token), message.published);
        if let Some(dies) = message.dies {
            self.mortal.push(Reverse((dies, sequence)));
        }
        self.messages.push(Stored { message, is_gone: false });
        self.held += 1;
        self.by_subject.entry(subject).or_default().push_back(sequence);
        self.thin(subject);
        while self.retention.messages.is_some_and(|most| self.held > most) {
            self.remove(self.first);
        }
        self.age(published);
        sequence
    }

    /// It is `now`, in milliseconds since the Unix epoch: what is too old goes.
    pub fn age(&mut self, now: i64) {
        while let Some(Reverse((dies, sequence))) =
            self.mortal.peek().copied().filter(|Reverse((dies, _))| *dies <= now)
        {
            self.mortal.pop();
            // After a roll-back another message may have the sequence.
            if self.get(sequence).is_some_and(|message| message.dies == Some(dies)) {
                self.remove(sequence);
            }
        }
        let Some(age) = self.retention.age_ms else { return };
        while self.get(self.first).is_some_and(|message| message.published + age <= now) {
            self.remove(self.first);
        }
    }

    fn thin(&mut self, subject: (u32, u32)) {
        let Some(most) = self.retention.per_subject else { return };
        let messages = &self.messages;
        let Some(sequences) = self.by_subject.get_mut(&subject) else { return };
        sequences.retain(|sequence| messages.get(*sequence as usize - 1).is_some_and(|stored| !stored.is_gone));
        let many = sequences.len().saturating_sub(most as usize);
        let old: Vec<u64> = sequences.drain(..many).collect();
        old.into_iter().for_each(|sequence| self.remove(sequence));
    }

    /// Deletes one message, wherever it is.
    pub fn remove(&mut self, sequence: u64) {
        let Some(stored) = sequence.checked_sub(1).and_then(|idx| self.messages.get_mut(idx as usize)) else { return };
        if !std::mem::replace(&mut stored.is_gone, true) {
            self.held -= 1;
        }
        self.skip_gone();
    }

    /// The first sequence is that of the first message that is there.
    fn skip_gone(&mut self) {
        while self.messages.get(self.first as usize - 1).is_some_and(|stored| stored.is_gone) {
            self.first += 1;
        }
    }

    /// The last sequence that was given out.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    /// The first sequence that is still there.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The message at a sequence, when it is still there.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Option<&Message> {
        let stored = self.messages.get(usize::try_from(sequence.checked_sub(1)?).ok()?)?;
        (!stored.is_gone).then_some(&stored.message)
    }

    /// The message at a sequence, gone or not.
    #[must_use]
    pub fn at(&self, sequence: u64) -> Option<&Message> {
        self.messages.get(usize::try_from(sequence.checked_sub(1)?).ok()?).map(|stored| &stored.message)
    }

    /// Runs of sequences between `after` and `before`, both excluded, that are gone.
    pub(super) fn gone_between(&self, after: u64, before: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for sequence in (after + 1..before).filter(|&sequence| self.get(sequence).is_none()) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => runs.push((sequence, sequence)),
            }
        }
        runs
    }

    /// A process was told that nothing of a partition is left between two sequences, the second included.
    pub(super) fn excuse(&mut self, partition: u32, after: u64, last: u64) {
        let is_gone = |sequence: &u64| self.get(*sequence).is_none();
        let gone: Vec<u64> = ((after + 1).max(self.first)..=last).filter(is_gone).collect();
        let ours = gone.into_iter().filter(|&sequence| self.at(sequence).is_some_and(|one| one.partition == partition));
        let ours: Vec<u64> = ours.collect();
        self.excused.extend(ours);
    }

    /// Whether nobody has to tell that this message is gone.
    #[must_use]
    pub fn is_excused(&self, sequence: u64) -> bool {
        self.excused.contains(&sequence)
    }

    /// The last sequence of one partition that somebody has to account for, 0 when it has none.
    #[must_use]
    pub fn last_of(&self, partition: u32) -> u64 {
        let is_ours = |sequence: &u64| self.at(*sequence).is_some_and(|message| message.partition == partition);
        (1..=self.last()).rev().find(|sequence| is_ours(sequence) && !self.is_excused(*sequence)).unwrap_or(0)
    }

    /// Acknowledged messages vanish behind `last`; their sequences will be given out again.
    pub fn lose_tail(&mut self, last: u64) {
        let lost = self.messages.split_off(self.messages.len().min(last as usize));
        self.held -= lost.iter().filter(|stored| !stored.is_gone).count() as u64;
        self.first = self.first.min(self.last() + 1);
        self.excused.retain(|&sequence| sequence <= last);
        self.by_subject.values_mut().for_each(|sequences| sequences.retain(|&sequence| sequence <= last));
    }

    /// Everything below `first` is deleted.
    pub fn expire(&mut self, first: u64) {
        (self.first..first.min(self.last() + 1)).for_each(|sequence| self.remove(sequence));
    }

    /// Another stream of the same name and configuration.
    pub fn recreate(&mut self) {
        let (retention, is_shared) = (self.retention, self.is_shared);
        *self = Input { retention, is_shared, ..Input::new(self.identity.created + 1) };
    }

    /// When it was created.
    #[must_use]
    pub fn created(&self) -> i64 {
        self.identity.created
    }

    /// As a survey reports it.
    #[must_use]
    pub fn facts(&self) -> StreamFacts {
        StreamFacts { identity: self.identity.clone(), first_sequence: self.first, last_sequence: self.last() }
    }

    /// Fingerprint of the message at a sequence.
    #[must_use]
    pub fn fingerprint(&self, sequence: u64) -> Option<u64> {
        self.get(sequence).map(|message| fingerprint(message.published, &message.payload))
    }
}
