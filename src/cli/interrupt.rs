//! Ctrl-C and SIGTERM: the first asks to stop, and ends the program if that takes longer than [`GRACE`]; the second ends it at
//! once. Either way nothing half-written stays behind.

use pdac_cascade::imaging::file::abandon_unfinished;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a stage may take to notice that it is to stop: the platform kills the process five seconds after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening for the signals: at the first, `on_request` is called; if the program has to be ended, it is with `code`.
pub fn listen(code: i32, on_request: impl Fn() + Send + 'static) {
    let (request, requests) = mpsc::channel();
    // There already when a signal comes: then it may be too late to start a thread. It does not log, which could block.
    let watchdog = thread::Builder::new().spawn(move || {
        if requests.recv().is_ok() {
            thread::sleep(GRACE);
            end(code);
        }
    });
    let stop = move || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            end(code);
        }
        let _watched = request.send(());
        on_request();
    };
    let listening = ctrlc::set_handler(stop).map_err(anyhow::Error::from);
    if let Err(error) = watchdog.map_err(anyhow::Error::from).and(listening) {
        tracing::warn!("signals end the program without tidying up: {error}");
    }
}

/// Ends the program; files that are being given their names get them first.
fn end(code: i32) -> ! {
    abandon_unfinished();
    #[expect(unsafe_code, reason = "the safe function runs the libraries' own endings")]
    // SAFETY: ends the process. Nothing is buffered, and a GPU's libraries must not be taken down beneath a thread that computes.
    unsafe {
        libc::_exit(code)
    }
}

/// Whether a signal has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
