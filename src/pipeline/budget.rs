//! What is left out where there is not the time for everything: a choice made once, from the time of one run of a network.

use serde::Serialize;
use std::time::Duration;

/// How much time a case may take, and how much of it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBudget {
    /// From the case's beginning to its outputs.
    pub limit: Duration,
    /// Gone already.
    pub spent: Duration,
}

/// How much of a model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// The first so many folds.
    pub folds: usize,
    /// Average over mirrored copies.
    pub mirroring: bool,
    /// Distance of neighbouring tiles in patches.
    pub step: f64,
}

/// What a model costs.
pub(super) struct Load<'a> {
    /// Everything that the recipe asks for.
    pub whole: Share,
    /// The more, the later it is left out.
    pub weight: f64,
    /// Mirrored copies that its checkpoint allows, the plain one included.
    pub copies: usize,
    /// Tiles at a step.
    pub tiles: Box<dyn Fn(f64) -> usize + 'a>,
    /// Seconds of one run of its network.
    pub run_seconds: f64,
}

impl Load<'_> {
    fn seconds(&self, share: Share) -> f64 {
        let copies = if share.mirroring { self.copies } else { 1 };
        (share.folds * copies * (self.tiles)(share.step)) as f64 * self.run_seconds
    }
}

/// What is computed of each model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// `None`: the model is left out.
    pub shares: Vec<Option<Share>>,
    /// What that takes.
    pub seconds: f64,
    /// Whether there is the time for it.
    pub fits: bool,
}

/// Steps that tiles may be moved apart to, where the recipe has a smaller one.
const STEPS: [f64; 4] = [0.0, 0.6, 0.75, 1.0];

/// The first of these that fits into `seconds`, or the last: everything; then without mirroring; then, each with and without
/// mirroring, tiles further apart; then, each with all of that, fewer folds of each model; then fewer models, those of least weight,
/// and of equal ones the last, being left out first.
///
/// Overlap and mirroring smooth one network's answer, folds and models are other answers: these go last.
pub(super) fn choose(loads: &[Load<'_>], seconds: f64) -> Choice {
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by(|&a, &b| loads[b].weight.total_cmp(&loads[a].weight));
    let mut last = Choice { shares: vec![None; loads.len()], seconds: 0.0, fits: true };
    for models in (1..=loads.len()).rev() {
        let kept = &order[..models];
        let most_folds = kept.iter().map(|&m| loads[m].whole.folds).max().unwrap_or(1);
        for folds in (1..=most_folds).rev() {
            for step in STEPS {
                for mirroring in [true, false] {
                    let mut shares = vec![None; loads.len()];
                    for &m in kept {
                        let whole = loads[m].whole;
                        shares[m] = Some(Share {
                            folds: whole.folds.min(folds),
                            mirroring: whole.mirroring && mirroring,
                            step: whole.step.max(step),
                        });
                    }
                    let costs = loads.iter().zip(&shares).map(|(load, s)| s.map_or(0.0, |s| load.seconds(s)));
                    let cost = costs.sum();
                    last = Choice { shares, seconds: cost, fits: cost <= seconds };
                    if last.fits {
                        return last;
                    }
                }
            }
        }
    }
    last
}

/// Seconds that networks may compute: what is not gone but for a reserve for the rest, a twentieth of the limit or as much again as
/// was gone `before` a network was timed (at most a quarter of the limit).
pub(super) fn seconds_for_networks(budget: TimeBudget, before: Duration) -> f64 {
    let (limit, spent) = (budget.limit.as_secs_f64(), budget.spent.as_secs_f64());
    limit - spent - before.as_secs_f64().min(limit / 4.0).max(limit / 20.0)
}

/// What a time budget has changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetReport {
    /// The limit.
    pub time_budget_seconds: f64,
    /// Gone before the networks ran on the scan, the measured run included.
    pub spent_before_seconds: f64,
    /// What the networks were expected to take.
    pub expected_network_seconds: f64,
    /// Whether that was within the limit; if not, the least possible was computed.
    pub fits: bool,
    /// The models of the recipe.
    pub models: Vec<ModelReport>,
}

/// What a time budget has changed of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelReport {
    /// Its folder in the recipe.
    pub folder: String,
    /// Seconds of one run of its network on a tile: measured for the first model, by arithmetic operations for the others.
    pub seconds_per_run: f64,
    /// What the recipe asks for.
    pub recipe: Share,
    /// What was computed; `null`: nothing.
    pub computed: Option<Share>,
}

impl BudgetReport {
    /// What is computed of the models from now on, expected to take `seconds`.
    pub(super) fn new(now: TimeBudget, seconds: f64, fits: bool, models: Vec<ModelReport>) -> Self {
        Self {
            time_budget_seconds: now.limit.as_secs_f64(),
            spent_before_seconds: now.spent.as_secs_f64(),
            expected_network_seconds: seconds,
            fits,
            models,
        }
    }

    /// Says what is computed: a warning where something is left out.
    pub(super) fn log(&self) {
        let (budget, expected) = (self.time_budget_seconds, self.expected_network_seconds);
        let said = format!("time budget of {budget} s: the networks are expected to take {expected:.1} s");
        match self.left_out() {
            None => tracing::info!("{said}; nothing is left out"),
            Some(left_out) if self.fits => tracing::warn!("{said}, with {left_out}"),
            Some(left_out) => tracing::warn!("{said}, more than there is, although {left_out}"),
        }
    }

    /// What was left out, in words; `None`: nothing.
    pub fn left_out(&self) -> Option<String> {
        let of = |model: &ModelReport| {
            let (recipe, Some(computed)) = (model.recipe, model.computed) else {
                return Some(format!("{}: left out", model.folder));
            };
            let folds = (computed.folds < recipe.folds)
                .then(|| format!("{} of {} folds", computed.folds, recipe.folds));
            let mirroring = (recipe.mirroring && !computed.mirroring).then(|| "no mirroring".to_owned());
            let step = (computed.step > recipe.step)
                .then(|| format!("step {} instead of {}", computed.step, recipe.step));
            let changes: Vec<String> = [folds, mirroring, step].into_iter().flatten().collect();
            (!changes.is_empty()).then(|| format!("{}: {}", model.folder, changes.join(", ")))
        };
        let all: Vec<String> = self.models.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten tiles at step 0.5, fewer in proportion; a second a run.
    fn load(folds: usize, mirroring: bool, weight: f64) -> Load<'static> {
        let whole = Share { folds, mirroring, step: 0.5 };
        let tiles = Box::new(|step: f64| (5.0 / step).round() as usize);
        Load { whole, weight, copies: 8, tiles, run_seconds: 1.0 }
    }

    fn shares(loads: &[Load<'_>], seconds: f64) -> Vec<Option<(usize, bool, f64)>> {
        let choice = choose(loads, seconds);
        assert!(choice.fits && choice.seconds <= seconds);
        choice.shares.iter().map(|s| s.map(|s| (s.folds, s.mirroring, s.step))).collect()
    }

    #[test]
    fn mirroring_goes_before_overlap_and_folds_before_models() {
        let two = [load(2, true, 1.0), load(1, true, 2.0)];
        assert_eq!(shares(&two, 240.0), [Some((2, true, 0.5)), Some((1, true, 0.5))]);
        assert_eq!(shares(&two, 239.0), [Some((2, false, 0.5)), Some((1, false, 0.5))]);
        assert_eq!(shares(&two, 29.0), [Some((2, false, 0.6)), Some((1, false, 0.6))]);
        assert_eq!(shares(&two, 15.0), [Some((2, false, 1.0)), Some((1, false, 1.0))]);
        assert_eq!(shares(&two, 14.0), [Some((1, false, 0.75)), Some((1, false, 0.75))]);
        assert_eq!(shares(&two, 9.0), [None, Some((1, false, 0.6))]);
    }

    #[test]
    fn of_models_of_equal_weight_the_last_is_left_out_first() {
        let two = [load(1, false, 1.0), load(1, false, 1.0)];
        assert_eq!(shares(&two, 8.0), [Some((1, false, 0.6)), None]);
    }

    #[test]
    fn where_nothing_fits_the_least_is_computed() {
        let choice = choose(&[load(5, true, 1.0)], 1.0);
        let least = Share { folds: 1, mirroring: false, step: 1.0 };
        assert_eq!(choice, Choice { shares: vec![Some(least)], seconds: 5.0, fits: false });
    }

    #[test]
    fn a_reserve_is_left_for_what_is_not_a_network() {
        let seconds = |before, spent| {
            let budget = TimeBudget { limit: Duration::from_secs(100), spent: Duration::from_secs(spent) };
            seconds_for_networks(budget, Duration::from_secs(before))
        };
        assert_eq!([seconds(1, 3), seconds(10, 13), seconds(60, 64)], [92.0, 77.0, 11.0]);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let whole = Share { folds: 5, mirroring: true, step: 0.5 };
        let model =
            |computed| ModelReport { folder: "a".to_owned(), seconds_per_run: 1.0, recipe: whole, computed };
        let mut report = BudgetReport {
            time_budget_seconds: 1.0,
            spent_before_seconds: 0.0,
            expected_network_seconds: 1.0,
            fits: true,
            models: vec![model(Some(whole))],
        };
        assert_eq!(report.left_out(), None);
        report.models = vec![model(Some(Share { folds: 1, mirroring: false, step: 0.75 })), model(None)];
        let said = "a: 1 of 5 folds, no mirroring, step 0.75 instead of 0.5; a: left out";
        assert_eq!(report.left_out().unwrap(), said);
    }
}
