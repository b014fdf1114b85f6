//! What JetStream error codes mean to the protocol, in one table.

use pelton_engine::log::Published;

/// What an error of the server means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A fence or the duplicate check said no. Read the marker before concluding anything.
    Fenced,
    /// The server cannot do it now; nothing was stored.
    Environment,
    /// The server failed while storing: it may or may not be there.
    Doubtful,
    NoStream,
    NoConsumer,
    NoMessage,
    /// Refused for what was sent or for how the stream is set up: the same bytes will be refused for ever.
    Permanent,
    /// Anything else: the request itself is refused, nothing was stored.
    Refused,
}

/// Codes with a meaning of their own; every other code is [`Class::Refused`].
const TABLE: &[(u64, Class)] = &[
    (10002, Class::Environment), // account resources exceeded
    (10004, Class::Environment), // cluster: incomplete results
    (10005, Class::Environment), // cluster: no suitable peers
    (10007, Class::Environment), // cluster: not assigned to this server
    (10008, Class::Environment), // cluster: temporarily unavailable
    (10009, Class::Environment), // cluster: not the leader
    (10014, Class::NoConsumer),  // consumer not found
    (10023, Class::Environment), // insufficient resources
    (10028, Class::Environment), // memory resources exceeded
    (10035, Class::Environment), // account not found: it comes with the next update of accounts
    (10037, Class::NoMessage),   // no message found
    (10039, Class::Environment), // JetStream not enabled for the account
    (10041, Class::Environment), // a failure of consensus
    (10043, Class::NoMessage),   // sequence not found
    (10047, Class::Environment), // storage resources exceeded
    (10054, Class::Permanent),   // message size exceeds what the stream takes
    (10059, Class::NoStream),    // stream not found
    (10060, Class::Permanent),   // expected stream does not match
    (10071, Class::Fenced),      // wrong last sequence: N
    (10076, Class::Environment), // JetStream not enabled
    (10077, Class::Doubtful),    // store failed; "maximum ... exceeded" stored nothing
    (10097, Class::Permanent),   // header size exceeds 64 KiB
    (10109, Class::Permanent),   // stream sealed: nothing opens it again
    (10111, Class::Permanent),   // rollup not permitted
    (10118, Class::Environment), // stream offline
    (10119, Class::Environment), // consumer offline
    (10158, Class::Environment), // the same message id is being stored
    (10163, Class::Environment), // expected last sequence per subject not ready
    (10164, Class::Fenced),      // wrong last sequence
    (10165, Class::Permanent),   // time to live of a message: not valid
    (10166, Class::Permanent),   // time to live of a message: disabled
    (10167, Class::Environment), // too many requests
    (10168, Class::Permanent),   // counters disabled
    (10169, Class::Permanent),   // stream of counters: the message is none
    (10170, Class::Permanent),   // counter with a payload
    (10171, Class::Permanent),   // counter not valid
    (10174, Class::Permanent),   // atomic batches disabled
    (10175, Class::Permanent),   // atomic batch: number missing
    (10176, Class::Environment), // atomic batch incomplete
    (10177, Class::Permanent),   // atomic batch: header not supported
    (10179, Class::Permanent),   // atomic batch: id not valid
    (10188, Class::Permanent),   // schedules disabled
    (10193, Class::Permanent),   // expected last sequence per subject not valid
    (10194, Class::Environment), // stream offline, with the reason
    (10195, Class::Environment), // consumer offline, with the reason
    (10199, Class::Permanent),   // atomic batch too large
    (10200, Class::Permanent),   // atomic batch: commit not valid
    (10201, Class::Fenced),      // duplicate message id in the batch
    (10210, Class::Environment), // too many atomic batches in flight
];

/// The meaning of one error of the server.
pub(crate) fn classify(code: u64, description: &str) -> Class {
    match TABLE.iter().find(|(known, _)| *known == code) {
        Some((_, Class::Doubtful)) if description.contains("maximum") => Class::Environment,
        Some((_, class)) => *class,
        None => Class::Refused,
    }
}

/// What an error answer to a batch means.
pub(crate) fn published(code: u64, description: &str) -> Published {
    let text = format!("{description} (error {code})");
    match classify(code, description) {
        Class::Fenced => Published::Rejected(text),
        Class::Doubtful => Published::Unknown(text),
        Class::Permanent => Published::Permanent(text),
        Class::Environment | Class::NoStream | Class::NoConsumer | Class::NoMessage | Class::Refused => {
            Published::Refused(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_means_one_thing_to_a_batch() {
        let cases = [
            (10071, "wrong last sequence: 7", "rejected"),
            (10164, "wrong last sequence", "rejected"),
            (10201, "batch contains duplicate message id", "rejected"),
            (10023, "insufficient resources", "refused"),
            (10077, "maximum messages exceeded", "refused"),
            (10077, "maximum bytes exceeded", "refused"),
            (10077, "write failed: input/output error", "unknown"),
            (10076, "JetStream not enabled", "refused"),
            (10199, "batch is too large: 1000", "permanent"),
            (10210, "too many inflight", "refused"),
            (10174, "atomic publish is disabled", "permanent"),
            (10097, "header size exceeds maximum allowed of 64k", "permanent"),
            (10054, "message size exceeds maximum allowed", "permanent"),
            (10109, "invalid operation on sealed stream", "permanent"),
            (10176, "batch incomplete", "refused"),
            (10008, "JetStream system temporarily unavailable", "refused"),
            (99999, "a code of a later version", "refused"),
        ];
        for (code, description, expected) in cases {
            let found = match published(code, description) {
                Published::Stored { .. } => "stored",
                Published::Rejected(_) => "rejected",
                Published::Unknown(_) => "unknown",
                Published::Refused(_) => "refused",
                Published::Permanent(_) => "permanent",
            };
            assert_eq!(found, expected, "{code} {description}");
        }
    }

    #[test]
    fn the_table_is_sorted_without_repeats() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
