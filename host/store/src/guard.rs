//! What keeps sled's accidents away from the partition: panics are caught, hangs are given up.
//!
//! On damaged files sled 0.34 panics, answers with an error, hangs, or opens in some other state. The first three
//! end here as `Damaged`; the last is the job of `scan`. A hung thread is left behind with its sled handle: it can
//! not be stopped, and the generation it sits on is set aside.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use pelton_engine::store::StoreError;

// A build that aborts would end the host over one damaged store.
#[cfg(not(panic = "unwind"))]
compile_error!("the store catches panics of sled: build it with `panic = \"unwind\"`");

/// Name of the threads that may panic or hang inside of sled.
const THREAD_NAME: &str = "pelton-store";

/// Runs `work`; a panic is `Damaged`.
pub(crate) fn caught<T>(what: &str, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StoreError::Damaged(format!("panic while {what}: {}", panic_message(panic.as_ref()))))
    })
}

/// Runs `work` on a thread of its own; a panic or more than `limit` is `Damaged`.
pub(crate) fn bounded<T: Send + 'static>(
    what: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new()
        .name(THREAD_NAME.into())
        // Nobody listens after the limit; the late result is dropped over there.
        .spawn(move || drop(sender.send(caught(what, work))))
        .map_err(|error| StoreError::Environment(format!("no thread for {what}: {error}")))?;
    receiver.recv_timeout(limit).unwrap_or_else(|error| {
        Err(StoreError::Damaged(match error {
            RecvTimeoutError::Timeout => format!("no answer after {} s while {what}", limit.as_secs_f32()),
            RecvTimeoutError::Disconnected => format!("thread ended while {what}"),
        }))
    })
}

/// Drops a sled handle; sled writes on drop and may panic there.
pub(crate) fn close<T>(handle: T) {
    if let Err(error) = caught("closing a generation", || {
        drop(handle);
        Ok(())
    }) {
        tracing::warn!(%error, "store handle did not close cleanly");
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    let line = text.as_deref().and_then(|text| text.lines().next()).unwrap_or("no message");
    line.chars().take(200).collect()
}

/// An IO error of ours, with what was done.
pub(crate) fn io_error(what: impl std::fmt::Display, error: &io::Error) -> StoreError {
    StoreError::Environment(format!("{what}: {error}"))
}

/// sled's error. No space, no right, no memory is of the environment. Everything else is damage, read errors of the
/// disk and refused offsets included: waiting does not cure them, setting the files aside does.
pub(crate) fn sled_error(what: &str, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if is_environment(&error) => io_error(what, &error),
        error => StoreError::Damaged(format!("{what}: {error}")),
    }
}

fn is_environment(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StorageFull};
    let kinds = [OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StorageFull];
    // sled keeps errors of background writes as text, without their number.
    let words = ["No space left", "StorageFull", "Read-only file system", "Too many open files"];
    kinds.contains(&error.kind()) || words.iter().any(|word| error.to_string().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_damage() {
        let result = caught::<()>("reading", || panic!("page 7\nis gone"));
        assert_eq!(result, Err(StoreError::Damaged("panic while reading: page 7".into())));
    }

    #[test]
    fn a_hang_is_damage() {
        let (_held, never) = std::sync::mpsc::channel::<()>();
        let result = bounded("reading", Duration::from_millis(20), move || {
            let _ = never.recv();
            Ok(())
        });
        assert_eq!(result, Err(StoreError::Damaged("no answer after 0.02 s while reading".into())));
    }

    #[test]
    fn a_full_disk_is_of_the_environment() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let as_text = || io::Error::other(format!("{:?}", full()));
        for error in [full(), as_text()] {
            let error = sled_error("writing", sled::Error::Io(error));
            assert!(matches!(error, StoreError::Environment(_)), "{error}");
        }
        let torn = sled::Error::Io(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(matches!(sled_error("reading", torn), StoreError::Damaged(_)));
    }
}
