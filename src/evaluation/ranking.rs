//! Items ranked by their scores, and what follows from the ranking: ROC, precision and recall, FROC.
//!
//! Sources: scikit-learn 1.9, `metrics/_ranking.py: roc_curve, precision_recall_curve, auc`; picai_eval 1.4, `metrics.py: Metrics`.
//! picai_eval thins curves of more than 10,000 thresholds; these are complete.

use serde::Serialize;

/// Scored items, positive or negative, each of a case, in descending order of their scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    items: Vec<Item>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Item {
    case: usize,
    score: f64,
    is_positive: bool,
}

/// How many items have at least one score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The score.
    pub threshold: f64,
    /// Positive items.
    pub true_positives: u64,
    /// Negative items.
    pub false_positives: u64,
}

impl Ranking {
    /// Ranks items given as (number of the case, score, whether positive).
    pub fn new(items: impl IntoIterator<Item = (usize, f64, bool)>) -> Self {
        let item = |(case, score, is_positive)| Item { case, score, is_positive };
        let mut items: Vec<_> = items.into_iter().map(item).collect();
        items.sort_by(|a, b| b.score.total_cmp(&a.score));
        Self { items }
    }

    /// One step for each different score, where the items of case `c` count `times[c]` times.
    pub fn steps(&self, times: &[u32]) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let (mut true_positives, mut false_positives) = (0, 0);
        for item in self.items.iter().filter(|item| times[item.case] > 0) {
            let count = u64::from(times[item.case]);
            *(if item.is_positive { &mut true_positives } else { &mut false_positives }) += count;
            let step = Step { threshold: item.score, true_positives, false_positives };
            match steps.last_mut() {
                Some(last) if last.threshold == item.score => *last = step,
                _ => steps.push(step),
            }
        }
        steps
    }
}

/// Area under the ROC curve: the share of pairs of a positive and a negative item where the positive one scores higher, equal
/// scores counting half. `None` where either kind is missing.
pub fn area_under_roc(steps: &[Step]) -> Option<f64> {
    let last = steps.last()?;
    let pairs = last.true_positives as f64 * last.false_positives as f64;
    let (mut twice, mut before) = (0_u128, (0, 0));
    for step in steps {
        let width = u128::from(step.false_positives - before.1);
        twice += width * u128::from(step.true_positives + before.0);
        before = (step.true_positives, step.false_positives);
    }
    (pairs > 0.0).then(|| twice as f64 / 2.0 / pairs)
}

/// Points of a ROC curve.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Roc {
    /// Share of the negative items with at least the score; ascending from 0 to 1.
    pub false_positive_rate: Vec<f64>,
    /// Share of the positive items with at least the score; ascending from 0 to 1.
    pub true_positive_rate: Vec<f64>,
}

impl Roc {
    /// The curve without the points where it goes straight on, as scikit-learn drops them. Empty where there are only positive
    /// or only negative items.
    pub fn of(steps: &[Step]) -> Self {
        let Some(last) = steps.last().filter(|s| s.true_positives > 0 && s.false_positives > 0) else {
            return Self::default();
        };
        let turns = |i: usize| {
            let [a, b, c] = [i - 1, i, i + 1].map(|i| (steps[i].true_positives, steps[i].false_positives));
            b.0 - a.0 != c.0 - b.0 || b.1 - a.1 != c.1 - b.1
        };
        let is_kept = |&i: &usize| i == 0 || i + 1 == steps.len() || turns(i);
        let kept: Vec<_> = (0..steps.len()).filter(is_kept).map(|i| steps[i]).collect();
        let rates = |count: fn(&Step) -> u64| {
            let all = count(last) as f64;
            std::iter::once(0.0).chain(kept.iter().map(|step| count(step) as f64 / all)).collect()
        };
        Self {
            false_positive_rate: rates(|s| s.false_positives),
            true_positive_rate: rates(|s| s.true_positives),
        }
    }
}

/// Points of a precision-recall curve in ascending order of thresholds, then the point of precision 1 and recall 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the items with at least the score that are positive; 0 at a score of 0, which lesions have that no candidate finds.
    pub precision: Vec<f64>,
    /// Share of the positive items with at least the score; 1 where there are none.
    pub recall: Vec<f64>,
}

impl PrecisionRecall {
    /// The curve; it has but its last point where there are no items.
    pub fn of(steps: &[Step]) -> Self {
        let all = steps.last().map_or(0, |last| last.true_positives);
        let recall = |s: &Step| if all == 0 { 1.0 } else { s.true_positives as f64 / all as f64 };
        Self {
            precision: steps.iter().rev().map(Step::precision).chain([1.0]).collect(),
            recall: steps.iter().rev().map(recall).chain([0.0]).collect(),
        }
    }

    /// Sum of each step's gain in recall times its precision; `None` where there are no items, 0 where none is positive.
    pub fn average_precision(&self) -> Option<f64> {
        let gains = self.recall.windows(2).map(|pair| pair[0] - pair[1]);
        let terms = gains.zip(&self.precision).map(|(gain, precision)| gain * precision);
        (self.recall.len() > 1).then(|| terms.sum())
    }
}

impl Step {
    fn precision(&self) -> f64 {
        if self.threshold == 0.0 {
            return 0.0;
        }
        self.true_positives as f64 / (self.true_positives + self.false_positives) as f64
    }
}

/// Points of a free-response ROC curve, one for each threshold, at least two.
///
/// The last threshold, which is 0 where any lesion is missed, stands for the end of the curve: infinitely many false positives
/// at the sensitivity before it. Where no lesion is missed the lowest confidence is lost to it, as in picai_eval.
#[derive(Debug, Clone, PartialEq)]
pub struct Froc {
    /// False positives per case, ascending; the last is infinite.
    pub false_positives_per_case: Vec<f64>,
    /// Share of the lesions found, ascending; `None` where there are no lesions.
    pub sensitivity: Vec<Option<f64>>,
}

/// The sensitivity at a number of false positives per case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// False positives per case, at most.
    pub false_positives_per_case: f64,
    /// Share of the lesions found; `None` where there are no lesions.
    pub sensitivity: Option<f64>,
}

impl Froc {
    /// The curve of a ranking of lesions and false candidates over so many cases.
    pub fn of(steps: &[Step], cases: usize) -> Self {
        let lesions = steps.last().map_or(0, |last| last.true_positives);
        // In float32, since that is what picai_eval divides in.
        let rate = |count: u64, all: u64| f64::from(count as f32 / all as f32);
        let start = [Step { threshold: f64::INFINITY, true_positives: 0, false_positives: 0 }];
        let points = match steps {
            [] | [_] => &start[..],
            [points @ .., _] => points,
        };
        let end = points.last().map(|s| s.true_positives);
        let found = points.iter().map(|s| s.true_positives).chain(end);
        let false_positives = points.iter().map(|s| rate(s.false_positives, cases as u64));
        Self {
            false_positives_per_case: false_positives.chain([f64::INFINITY]).collect(),
            sensitivity: found.map(|count| (lesions > 0).then(|| rate(count, lesions))).collect(),
        }
    }

    /// The sensitivity at so many false positives per case or fewer; 0 where every threshold has more.
    pub fn at(&self, false_positives_per_case: f64) -> OperatingPoint {
        let points = self.false_positives_per_case.iter().zip(&self.sensitivity);
        let within = points.rev().find(|&(&rate, _)| rate <= false_positives_per_case);
        let sensitivity = match within {
            Some((_, &sensitivity)) => sensitivity,
            None => self.sensitivity.first().copied().flatten().map(|_| 0.0),
        };
        OperatingPoint { false_positives_per_case, sensitivity }
    }
}
