//! Stages as they run: a bar each on a terminal, plain lines otherwise, and a summary at the end.

use super::{interrupt, memory};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pdac_cascade::nnunet::predictor::TileProgress;
use pdac_cascade::pipeline::{Answer, Observer, TimeBudget};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Plain lines of a stage come at least this far apart.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What a finished stage cost.
struct Cost {
    name: &'static str,
    time: Duration,
    peak: Option<u64>,
}

/// A stage that runs.
struct Running {
    name: &'static str,
    since: Instant,
    last_line: Instant,
    bar: ProgressBar,
}

/// Watches stages and tiles.
pub struct Progress<'a> {
    bars: &'a MultiProgress,
    began: Instant,
    /// How long the case may take.
    limit: Option<Duration>,
    running: RefCell<Option<Running>>,
    finished: RefCell<Vec<Cost>>,
}

impl<'a> Progress<'a> {
    /// Draws on `bars`; the case begins now, and may take so long.
    pub fn new(bars: &'a MultiProgress, limit: Option<Duration>) -> Self {
        let (running, finished) = (RefCell::new(None), RefCell::new(Vec::new()));
        Self { bars, began: Instant::now(), limit, running, finished }
    }

    /// How a case was run: where its likelihood comes from; what a time budget has changed, and the seconds that the case has taken
    /// until now. `None` if there is nothing of it to be said.
    pub fn report(&self, answer: &Answer) -> serde_json::Result<Option<serde_json::Value>> {
        let mut report = serde_json::Map::new();
        if let Some(likelihood) = answer.likelihood() {
            report.insert("likelihood".to_owned(), serde_json::to_value(likelihood)?);
        }
        if let Some(serde_json::Value::Object(budget)) =
            answer.budget().map(serde_json::to_value).transpose()?
        {
            report.extend(budget);
            report.insert("seconds".to_owned(), self.began.elapsed().as_secs_f64().into());
        }
        Ok((!report.is_empty()).then(|| report.into()))
    }

    fn finish_stage(&self) {
        if let Some(stage) = self.running.take() {
            stage.bar.finish_and_clear();
            let cost = Cost { name: stage.name, time: stage.since.elapsed(), peak: memory::peak() };
            self.finished.borrow_mut().push(cost);
        }
    }

    /// Ends the last stage and logs one line a stage: seconds and peak memory.
    pub fn summarise(&self) {
        self.finish_stage();
        let finished = self.finished.borrow();
        let total = Cost {
            name: "total",
            time: finished.iter().map(|c| c.time).sum(),
            peak: finished.iter().filter_map(|c| c.peak).max(),
        };
        for cost in finished.iter().chain([&total]) {
            let seconds = cost.time.as_secs_f64();
            let peak_mb = cost.peak.map_or(0.0, |b| b as f64 / 1e6);
            tracing::info!(
                stage = cost.name,
                seconds = (seconds * 1e3).round() / 1e3,
                peak_mb = peak_mb.round(),
                "finished"
            );
        }
    }
}

impl Observer for Progress<'_> {
    fn stage(&self, name: &'static str) {
        self.finish_stage();
        memory::reset_peak();
        tracing::info!(stage = name, "started");
        let bar = self.bars.add(ProgressBar::no_length().with_message(name));
        if let Ok(style) =
            ProgressStyle::with_template("{msg:16} {wide_bar} {pos}/{len} tiles {elapsed_precise}")
        {
            bar.set_style(style);
        }
        let now = Instant::now();
        self.running.replace(Some(Running { name, since: now, last_line: now, bar }));
    }

    fn tile(&self, TileProgress { done, total }: TileProgress) -> bool {
        if let Some(stage) = self.running.borrow_mut().as_mut() {
            stage.bar.set_length(total as u64);
            stage.bar.set_position(done as u64);
            if self.bars.is_hidden() && stage.last_line.elapsed() >= LINE_INTERVAL {
                stage.last_line = Instant::now();
                tracing::info!(stage = stage.name, done, total, "tiles");
            }
        }
        !interrupt::requested()
    }

    fn time(&self) -> Option<TimeBudget> {
        self.limit.map(|limit| TimeBudget { limit, spent: self.began.elapsed() })
    }
}
