//! Log lines on standard error, which make way for progress bars.

use super::args::LogForm;
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error shared with progress bars.
#[derive(Clone)]
struct BesideBars(MultiProgress);

impl Write for BesideBars {
    /// A log that nobody can read is no reason to lose a case: failures are passed over.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _failed = self.0.suspend(|| io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for BesideBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Installs the log; returns where progress bars are to be drawn (nowhere, unless on a terminal).
pub fn start(form: LogForm, quiet: bool) -> MultiProgress {
    let terminal = io::stderr().is_terminal();
    let target = if terminal && !quiet && form == LogForm::Text {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bars = MultiProgress::with_draw_target(target);
    let level = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(BesideBars(bars.clone()));
    match form {
        LogForm::Text => log.without_time().with_ansi(terminal).init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
    bars
}
