//! Why a setting of a stream matters, and what to do when it differs.

/// Which stream of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Input,
    Log,
    Leases,
    Snapshots,
    Output,
}

/// What goes wrong while the setting differs; empty when that is plain.
pub(crate) fn why(role: Role, setting: &str) -> &'static str {
    match (role, setting) {
        (
            Role::Log,
            "max_age" | "max_msgs" | "max_msgs_per_subject" | "discard_new_per_subject" | "allow_msg_ttl" | "discard",
        ) => {
            "the broker would delete markers and changes, and a host that does not find them would start over: every \
             output comes twice"
        }
        (Role::Log, "retention") => "what is acknowledged would vanish, markers and state with it",
        (Role::Log | Role::Snapshots, "deny_purge") => "what no snapshot needs any more could not be purged",
        (Role::Log, "deny_delete") => "what is kept of a person could never be erased",
        (Role::Log, "allow_atomic") => "an epoch is one atomic batch",
        (Role::Log, "no_ack") => "the outcome of every commit would be unknown",
        (Role::Log, "persist_mode") => "an epoch would be acknowledged before it is on disk",
        (Role::Log, "allow_msg_counter" | "allow_msg_schedules" | "max_msg_size") => "batches would be refused",
        (_, "sealed") => "nothing can be written",
        (Role::Leases, "max_msgs_per_subject") => "a lease is the last value of its key",
        (Role::Snapshots, "max_age" | "max_msgs" | "max_msgs_per_subject" | "allow_msg_ttl") => {
            "snapshots would vanish, and with them the state whose changes are purged already"
        }
        (Role::Snapshots, "allow_direct") => "a large state is read by direct requests",
        (Role::Snapshots, "allow_rollup_hdrs") => "a snapshot that is stored again replaces the one before",
        (Role::Input, "retention") => "what another consumer acknowledges would vanish before it is read",
        (Role::Output, "sources") => "outputs would not be copied into this stream",
        _ => "",
    }
}

/// How to set it right. `wanted` is the value as the server spells it.
pub(crate) fn remedy(stream: &str, setting: &str, wanted: &str) -> String {
    const FOR_GOOD: &[&str] = &["storage", "persist_mode", "deny_delete", "deny_purge", "sealed", "allow_msg_ttl"];
    if FOR_GOOD.contains(&setting) {
        return format!(
            "{setting} of an existing stream cannot be taken back: delete stream {stream}, with all that it holds, and \
             run `pelton up` again"
        );
    }
    format!("set {setting} of stream {stream} to {wanted}, for example with `nats stream edit {stream}`")
}

/// A value for people: limits that are off are `none`, durations have units.
pub(crate) fn shown(setting: &str, value: &serde_json::Value) -> String {
    match (setting, value) {
        (_, serde_json::Value::Null) => "none".to_string(),
        (_, serde_json::Value::Bool(true)) => "on".to_string(),
        ("max_age", value) => value.as_u64().map_or_else(|| value.to_string(), duration),
        (_, serde_json::Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}

/// Nanoseconds as `90 s` or `20 ms`.
pub(crate) fn duration(nanos: u64) -> String {
    match nanos {
        0 => "none".to_string(),
        nanos if nanos % 1_000_000_000 == 0 => format!("{} s", nanos / 1_000_000_000),
        nanos => format!("{} ms", nanos / 1_000_000),
    }
}
