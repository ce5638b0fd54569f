//! Ctrl-C and SIGTERM: the first asks to stop after the current tile, the second stops at once, unless outputs are
//! being written just then.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WRITING: AtomicBool = AtomicBool::new(false);

/// Starts listening for the signals.
pub fn listen() {
    let stop = || {
        if REQUESTED.swap(true, Ordering::Relaxed) && !WRITING.load(Ordering::Relaxed) {
            process::exit(130);
        }
    };
    if let Err(error) = ctrlc::set_handler(stop) {
        tracing::warn!("signals end the program without tidying up: {error}");
    }
}

/// From now on outputs are written: a moment that is seen through, so that nothing half-written stays behind.
pub fn writing() {
    WRITING.store(true, Ordering::Relaxed);
}

/// Whether a signal has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
