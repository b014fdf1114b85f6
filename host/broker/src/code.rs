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
    (10037, Class::NoMessage),   // no message found
    (10039, Class::Environment), // JetStream not enabled for the account
    (10043, Class::NoMessage),   // sequence not found
    (10047, Class::Environment), // storage resources exceeded
    (10059, Class::NoStream),    // stream not found
    (10071, Class::Fenced),      // wrong last sequence: N
    (10076, Class::Environment), // JetStream not enabled
    (10077, Class::Doubtful),    // store failed; "maximum ... exceeded" stored nothing
    (10163, Class::Environment), // expected last sequence per subject not ready
    (10164, Class::Fenced),      // wrong last sequence
    (10167, Class::Environment), // too many requests
    (10176, Class::Environment), // atomic batch incomplete
    (10194, Class::Environment), // stream offline
    (10195, Class::Environment), // consumer offline
    (10199, Class::Refused),     // atomic batch too large
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
            (10199, "batch is too large: 1000", "refused"),
            (10210, "too many inflight", "refused"),
            (10174, "atomic publish is disabled", "refused"),
            (10008, "JetStream system temporarily unavailable", "refused"),
            (99999, "a code of a later version", "refused"),
        ];
        for (code, description, expected) in cases {
            let found = match published(code, description) {
                Published::Stored { .. } => "stored",
                Published::Rejected(_) => "rejected",
                Published::Unknown(_) => "unknown",
                Published::Refused(_) => "refused",
            };
            assert_eq!(found, expected, "{code} {description}");
        }
    }

    #[test]
    fn the_table_is_sorted_without_repeats() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
