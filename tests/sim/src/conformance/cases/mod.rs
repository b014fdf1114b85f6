//! The table: every rule with its probe.

mod commit;
mod holes;
mod input;
mod keep;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("a first batch lands behind nothing, a second first batch does not", commit::first_batch),
    ("a stale fence is refused and nothing is stored", commit::stale_fence),
    ("the right sequence with another marker's slot is refused", commit::wrong_slot),
    ("the right slot with another sequence is refused", commit::wrong_sequence),
    ("the same bytes behind the same fence land once", commit::duplicate_publish),
    ("records that carry one message id land together", commit::message_ids),
    ("a batch of 1,001 messages is refused whole", commit::too_many_messages),
    ("a batch behind a marker that was rolled back is refused", commit::rolled_back),
    ("a batch behind a purged marker is refused", commit::purged),
    ("a pipeline stream that is made again has another identity and takes only a first batch", commit::log_recreated),
    ("a survey finds the newest marker and that of an epoch", commit::survey_markers),
    ("a marker whose slot a later epoch took is not found", commit::lost_slot),
    ("a survey identifies an input message, and says when there is none", input::survey_input),
    ("changes come in order, whole, between two markers", commit::changes),
    ("after a reset events come in order, once, from there", input::reset_and_fetch),
    (
        "a fetch before any reset starts behind what is acknowledged, and says so before it gives an event",
        input::no_reset,
    ),
    ("a fetch with nothing to deliver says that it has caught up", input::caught_up),
    ("a reset beyond the end is taken, and skips", input::reset_beyond_end),
    ("a reset below the first sequence starts at the first", input::reset_below_first),
    ("a consumer that is deleted is made again behind the last delivery, and that is said", input::consumer_deleted),
    ("two processes on one consumer notice each other and lose nothing", input::two_processes),
    ("a process that was displaced skips nothing, however deliveries are numbered", input::displaced),
    ("a process that was displaced before it asked for more skips nothing", input::displaced_unasked),
    ("who has received everything is told so, and nobody else", input::all_delivered),
    ("an input that is made again has another identity and gives no event unasked", input::input_recreated),
    ("an input that lost its tail says so before it gives another event", input::input_rolled_back),
    (
        "an input that lost its tail and grew again goes on, and shows that a message is another one",
        input::input_regrown,
    ),
    ("deliveries whose ack is overdue do not hide new ones", input::ack_wait),
    ("an ack acknowledges no more than what was delivered", input::ack_unknown),
    ("what expired before it was delivered is told as a hole, once", holes::expired),
    ("what expires under a consumer is delivered or told", holes::expired_under_consumer),
    ("what was deleted inside the stream is told as deleted", holes::deleted),
    ("what a limit per subject takes is told as expired", holes::limited_per_subject),
    ("messages of others are no holes, as long as they are there", holes::others),
    ("a quiet partition is not accused of what others lost", holes::quiet),
    ("a hole with nothing behind it is told when nothing is left", holes::all_gone),
    ("nothing is proved to be read while a hole is untold", holes::unproved),
    ("what is known when the consumer is placed is not told again", holes::known),
    ("a lease is held by one, renewed under its revision, and free after a release", keep::lease),
    (
        "a lease that ran out is taken over, and its old holder learns it; if nobody took it, it is renewed",
        keep::lease_expired,
    ),
    ("the newest snapshot at or below an epoch is found", keep::snapshots),
    ("a snapshot of an epoch that the stream has lost pushes out no other", keep::stale_snapshots),
];
