//! The input stream: messages of all partitions under one run of sequences.

use std::sync::Arc;

use pelton_engine::epoch::{StreamIdentity, fingerprint};
use pelton_engine::log::StreamFacts;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Message {
    pub partition: u32,
    /// When the broker stored it, milliseconds since the Unix epoch.
    pub published: i64,
    pub payload: Arc<[u8]>,
}

/// A stream with limits retention.
pub struct Input {
    identity: StreamIdentity,
    /// Sequence `idx + 1`, expired ones included.
    messages: Vec<Message>,
    first: u64,
}

impl Input {
    /// An empty stream.
    #[must_use]
    pub fn new(created: i64) -> Input {
        Input { identity: StreamIdentity { name: "IN".into(), created }, messages: Vec::new(), first: 1 }
    }

    /// Appends a message and returns its sequence.
    pub fn publish(&mut self, message: Message) -> u64 {
        self.messages.push(message);
        self.last()
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
        if sequence < self.first { None } else { self.at(sequence) }
    }

    /// The message at a sequence, expired or not.
    #[must_use]
    pub fn at(&self, sequence: u64) -> Option<&Message> {
        self.messages.get(usize::try_from(sequence.checked_sub(1)?).ok()?)
    }

    /// The last sequence of one partition, 0 when it has none.
    #[must_use]
    pub fn last_of(&self, partition: u32) -> u64 {
        self.messages.iter().rposition(|message| message.partition == partition).map_or(0, |idx| idx as u64 + 1)
    }

    /// Acknowledged messages vanish behind `last`; their sequences will be given out again. Returns them.
    pub fn lose_tail(&mut self, last: u64) -> Vec<Message> {
        self.messages.split_off(self.messages.len().min(last as usize))
    }

    /// Everything below `first` is deleted.
    pub fn expire(&mut self, first: u64) {
        self.first = self.first.max(first.min(self.last() + 1));
    }

    /// Another stream of the same name.
    pub fn recreate(&mut self) {
        let created = self.identity.created + 1;
        *self = Input::new(created);
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
