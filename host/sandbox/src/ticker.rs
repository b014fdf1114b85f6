//! The thread that advances the epoch about once a millisecond, so that a call can have a deadline.
//!
//! Ticks, not clock readings, are counted: while the process is stopped (a debugger, a paused machine) no deadline passes.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// Length of one epoch.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Stops its thread when dropped.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts ticking `engine`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Ticker> {
        let (stop, stopped) = channel();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name("epoch-ticker".into()).spawn(tick)?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread holds nothing that could fail; it ends within one tick.
            let _ = thread.join();
        }
    }
}

/// The deadline `time` in ticks from now: rounded up, plus the tick that is under way.
pub(crate) fn ticks(time: Duration) -> u64 {
    let whole = time.as_nanos().div_ceil(TICK.as_nanos());
    u64::try_from(whole).unwrap_or(u64::MAX / 4).min(u64::MAX / 4) + 1
}
