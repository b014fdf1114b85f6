//! Settings of the machine of one partition, and the switches that weaken it for the simulator.

/// The longest pause between two attempts.
const BACKOFF_MS_MAX: u64 = 5_000;

/// How the machine behaves. All times in milliseconds of the caller's monotonic clock.
#[derive(Clone, Debug)]
pub struct Config {
    pub partition: u32,
    /// Unique per process start: makes nonces unique.
    pub session: u64,
    /// End when everything that is in the input is committed; windows stay open.
    pub exit_when_caught_up: bool,
    /// Continue after input that expired before it was read; the gap becomes a record.
    pub accept_loss: bool,
    /// How often both streams are looked at when nothing else asks for it.
    pub idle_check_ms: u64,
    /// A quiet partition commits how far it has read at most this often.
    pub quiet_ms: u64,
    pub renew_ms: u64,
    pub retry_ms: u64,
    /// An answer that takes longer is given up.
    pub answer_ms: u64,
    pub sync_ms: u64,
    /// Snapshot after this many delta bytes.
    pub snapshot_bytes: usize,
    /// Snapshot after this many epochs.
    pub snapshot_epochs: u64,
    /// After a snapshot that was not saved, the next one is taken so much later.
    pub snapshot_retry_ms: u64,
    /// The lease is given back when the local store has refused to work for so long: another host may do better.
    pub yield_ms: u64,
    /// Weakenings of the protocol, for the simulator.
    #[cfg(feature = "mutants")]
    pub mutants: Mutants,
}

/// Test-only switches, each of which removes one safeguard, so that the simulator can prove that it notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    /// Every epoch has the same nonce: another host's epoch looks like ours.
    pub no_nonce: bool,
    /// An idle partition never looks at the marker again: a lost tail goes unnoticed.
    pub no_idle_check: bool,
    /// "Wrong last sequence" is taken for "already stored".
    pub rejected_is_success: bool,
    /// No answer is taken for "stored".
    pub unknown_is_success: bool,
    /// Recovery trusts where the consumer stands instead of the stored position.
    pub no_reset: bool,
    /// Recovery does not check that the local epoch is an ancestor of the stream's.
    pub no_ancestor_check: bool,
    /// Repeated deliveries are taken as new events.
    pub keep_duplicates: bool,
    /// A rolled-back or refilled input is not noticed.
    pub no_input_check: bool,
    /// The snapshot is taken after the next epoch has begun to change the state.
    pub late_snapshot: bool,
    /// The position is that of the last fetched event, not of the last computed one.
    pub position_ahead: bool,
    /// A fenced host keeps its state in memory.
    pub keep_state_after_fence: bool,
    /// Replayed changes are not checked against the chain of hashes and nonces.
    pub no_chain_check: bool,
    /// A fetch that is not answered is asked again, whatever it may have delivered.
    pub forget_fetch: bool,
    /// A consumer that was lost and made again is no reason to look at the streams.
    pub ignore_restart: bool,
    /// Nothing is checked between the reset of the consumer and the first event.
    pub no_second_look: bool,
    /// What the consumer has delivered counts as read, received or not.
    pub delivered_is_read: bool,
    /// A doubtful epoch is published again behind the marker in memory, not behind the one just read.
    pub stale_fence: bool,
    /// A doubt is resolved whatever has become of the input.
    pub doubt_ignores_input: bool,
    /// Changes are believed without their hash.
    pub no_state_hash: bool,
    /// Holes are not noticed.
    pub no_holes: bool,
    /// Holes are passed without a record.
    pub uncounted_loss: bool,
    /// Lost input is a gap also when no operator said to go on.
    pub skip_unasked: bool,
    /// Of what one answer holds twice both are taken.
    pub repeats_in_batch: bool,
    /// A lease that another host has is no reason to stop.
    pub no_lease: bool,
    /// A pipeline stream that was made again is taken for the old one.
    pub any_log: bool,
    /// A partition that has nothing to do does not say how far it has read.
    pub quiet_says_nothing: bool,
    /// A broker that does not answer is a silent source.
    pub outage_is_silence: bool,
    /// A run that exits when it has caught up ends with work open.
    pub exit_early: bool,
    /// What was counted in an epoch counts in the next one, too.
    pub counters_kept: bool,
    /// State of another layout is read.
    pub any_layout: bool,
    /// Silence moves the watermark also when nothing is due.
    pub idle_always: bool,
    /// The parts of a snapshot are believed without their hash.
    pub trust_snapshot: bool,
    /// A section of a snapshot is restored from the parts of another one.
    pub mix_sections: bool,
    /// What is refused for good is sent again.
    pub retry_permanent: bool,
    /// The outbox is published again before the input is checked.
    pub republish_unchecked: bool,
    /// Each recovery begins to count anew what no snapshot covers.
    pub unsnapped_reset: bool,
    /// A partition does not commit where it began.
    pub no_first_marker: bool,
    /// A store that refuses is no reason to give the lease back.
    pub keep_useless_lease: bool,
    /// What comes from a clock is not recorded.
    pub clock_unrecorded: bool,
    /// Events are taken after what comes from a clock, in the same epoch.
    pub clock_mid_epoch: bool,
    /// What was held until it is its turn is gone after a restart.
    pub held_lost: bool,
}

impl Config {
    /// Production settings.
    #[must_use]
    pub fn new(partition: u32, session: u64) -> Config {
        Config {
            partition,
            session,
            exit_when_caught_up: false,
            accept_loss: false,
            idle_check_ms: 5_000,
            quiet_ms: 10_000,
            renew_ms: 3_000,
            retry_ms: 200,
            answer_ms: 10_000,
            sync_ms: 1_000,
            snapshot_bytes: 64 << 20,
            snapshot_epochs: 2_000,
            snapshot_retry_ms: 30_000,
            yield_ms: 10_000,
            #[cfg(feature = "mutants")]
            mutants: Mutants::default(),
        }
    }

    /// None without the feature: then the compiler leaves their branches out.
    #[inline]
    pub(super) fn mutants(&self) -> Mutants {
        #[cfg(feature = "mutants")]
        return self.mutants;
        #[cfg(not(feature = "mutants"))]
        Mutants::default()
    }

    /// How long to wait after so many fruitless attempts: doubles from `retry_ms` up to [`BACKOFF_MS_MAX`].
    pub(super) fn backoff_ms(&self, attempts: u32) -> u64 {
        (self.retry_ms << attempts.saturating_sub(1).min(16)).min(BACKOFF_MS_MAX.max(self.retry_ms))
    }
}
