//! Log lines, which make way for progress bars.

use super::args::LogForm;
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of the longest line: the platform's wrapper passes over lines of more than 64 KiB.
const LONGEST_LINE: usize = 1 << 14;
/// Bytes at the end of a line that are kept in any case.
const LINE_END: usize = 256;

/// Where lines go that are neither warnings nor errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Informative {
    /// Standard output: the platform takes every line on standard error for a warning.
    Stdout,
    /// Standard error, as the others.
    Stderr,
}

/// Standard error (and output) shared with progress bars.
#[derive(Clone)]
struct BesideBars {
    bars: MultiProgress,
    informative: Informative,
    /// Whether colours are shown.
    terminal: bool,
    /// What the line at hand is.
    warning: bool,
}

impl Write for BesideBars {
    /// A log that nobody can read is no reason to lose a case: failures are passed over.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = shortened(bytes);
        let line = if self.terminal { line } else { printable(line) };
        let _failed = self.bars.suspend(|| match self.informative {
            Informative::Stdout if !self.warning => io::stdout().write_all(&line),
            _ => io::stderr().write_all(&line),
        });
        Ok(bytes.len())
    }

    /// Nothing is kept: lines end in a newline, at which standard output is flushed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line, without its middle if it is longer than [`LONGEST_LINE`].
fn shortened(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= LONGEST_LINE {
        return Cow::Borrowed(line);
    }
    let text = String::from_utf8_lossy(line);
    let head = text.floor_char_boundary(LONGEST_LINE - LINE_END);
    let tail = text.ceil_char_boundary(text.len() - LINE_END);
    Cow::Owned(format!("{} ... {}", &text[..head], &text[tail..]).into_bytes())
}

/// A line whose control characters, which names of files may hold, are blanks: one line stays one line.
fn printable(line: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let end = line.len() - usize::from(line.ends_with(b"\n"));
    if !line[..end].iter().any(u8::is_ascii_control) {
        return line;
    }
    let mut line = line.into_owned();
    line[..end].iter_mut().filter(|b| b.is_ascii_control()).for_each(|b| *b = b' ');
    Cow::Owned(line)
}

impl MakeWriter<'_> for BesideBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }

    fn make_writer_for(&self, line: &Metadata<'_>) -> Self {
        Self { warning: *line.level() <= Level::WARN, ..self.clone() }
    }
}

/// Installs the log; returns where progress bars are to be drawn (nowhere, unless on a terminal).
pub fn start(form: LogForm, quiet: bool, informative: Informative) -> MultiProgress {
    let terminal = io::stderr().is_terminal();
    let target = if terminal && !quiet && form == LogForm::Text {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bars = MultiProgress::with_draw_target(target);
    let level = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let writer = BesideBars { bars: bars.clone(), informative, terminal, warning: true };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(writer);
    match form {
        LogForm::Text => log.without_time().with_ansi(terminal).init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(*printable(Cow::Borrowed(b"a\nERROR b\x1b[31m\n")), *b"a ERROR b [31m\n");
        assert_eq!(*printable(Cow::Borrowed("\u{20ac}\n".as_bytes())), *"\u{20ac}\n".as_bytes());
    }

    #[test]
    fn lines_that_would_break_the_platform_are_shortened() {
        assert_eq!(*shortened(b"short\n"), *b"short\n");
        let long = format!("begin{}end\n", "\u{20ac}".repeat(1 << 16));
        let line = String::from_utf8(shortened(long.as_bytes()).into_owned()).unwrap();
        assert!(line.len() < LONGEST_LINE + 16, "{}", line.len());
        assert!(line.starts_with("begin") && line.ends_with("end\n") && line.contains(" ... "));
    }
}
