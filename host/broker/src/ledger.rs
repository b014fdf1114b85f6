//! The end of the ledger: records of epochs whose input is gone.

use pelton_engine::epoch::Ledger;
use serde_json::{Value, json};
use tracing::debug;

use crate::api::Fault;
use crate::connect::Broker;
use crate::names;
use crate::stored::Stored;
use crate::target::Target;

/// Deletes the records of epochs of which the input holds no event any more, but for the last of them, which says how the
/// next one begins; of those that the stream holds before `below`.
pub(crate) async fn purge(broker: &Broker, target: &Target, below: u64) -> Result<(), Fault> {
    let first_input = broker.stream_info(&target.stream).await?.state.first_sequence;
    let (stream, subject) = (target.log_stream(), names::ledger_subject(&target.prefix()));
    let next = async |from: u64| broker.next_message(&stream, &subject, from).await;
    let is_past = |record: &Stored| {
        let ledger = Ledger::decode(&record.payload);
        // One that cannot be read is of another version, and stays.
        record.sequence < below && ledger.is_ok_and(|ledger| ledger.position.sequence < first_input)
    };
    let Some(first) = next(1).await?.filter(is_past) else { return Ok(()) };
    // Positions ascend: the last record of the past lies at or behind `last`, and before `end`.
    let (mut last, mut end) = (first.sequence, below);
    while end - last > 1 {
        let middle = last + (end - last) / 2;
        match next(middle).await?.filter(is_past) {
            Some(record) => last = record.sequence,
            None => end = middle,
        }
    }
    let body = json!({ "filter": subject, "seq": last });
    let answer: Value = broker.api(&stream, &format!("STREAM.PURGE.{stream}"), &body).await?;
    debug!(stream, first_input, below = last, purged = %answer["purged"], "records of the ledger whose input is gone");
    Ok(())
}
