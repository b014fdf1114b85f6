//! How many deliveries may be without an acknowledgement: what we would like, what is allowed, what is too few.

use async_nats::jetstream::stream::Info;
use serde_json::Value;

/// More than two epochs of any size, so that the next epoch is read while one is stored.
pub(crate) const WANTED: u64 = 200_000;

/// An epoch takes about 50 ms to fill and to be stored, and nothing more comes while all that is allowed is in it: so
/// with N a partition gets about 20 N events a second. Fewer than 100 are not meant for a consumer that acknowledges
/// what it has stored, but for one that works on single messages, and would make Pelton crawl.
pub(crate) const LEAST: u32 = 100;

/// The smallest limit on the deliveries without an acknowledgement of one consumer on the stream; `None` without any.
pub(crate) fn ack_pending_max(stream: &Info, account: &Value) -> Option<u64> {
    let of_stream = stream.config.consumer_limits.as_ref().map(|limits| limits.max_ack_pending);
    let tier = format!("R{}", stream.config.num_replicas.max(1));
    let of_account = account["limits"]["max_ack_pending"].as_i64();
    let of_tier = account["tiers"][&tier]["limits"]["max_ack_pending"].as_i64();
    let all = [of_stream, of_account, of_tier];
    all.into_iter().flatten().filter(|limit| *limit > 0).map(i64::unsigned_abs).min()
}
