//! The wish to stop: Ctrl-C or SIGTERM, from the first moment on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

/// Exit code of a process that was asked twice.
const TWICE: i32 = 130;

/// Cheap to clone; all clones are the same wish.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on the first signal asks to stop; a second one ends the process at once.
    pub(crate) fn watch() -> io::Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, TWICE, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())?;
        }
        Ok(Stop(asked))
    }

    /// For those who only look at it.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Ready as soon as it is asked.
    pub(crate) async fn asked(&self) {
        while !self.is_asked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
