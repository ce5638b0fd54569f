//! How far a metric may be off by the choice of patients: the percentile bootstrap.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Percentiles between which 95 % of the samples lie.
const PERCENTILES: [f64; 2] = [2.5, 97.5];

/// How patients are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bootstrap {
    /// Number of samples; 0 for no intervals.
    pub samples: usize,
    /// What decides the draws.
    pub seed: u64,
}

impl Bootstrap {
    /// Samples of as many patients as there are, drawn with replacement: how often each is in the sample.
    ///
    /// `is_positive` says which patients have a lesion. A sample without patients of both kinds is drawn again, and there are no
    /// samples where one kind does not exist.
    pub fn draw(self, is_positive: &[bool]) -> impl Iterator<Item = Vec<u32>> {
        let has_both = move |times: &[u32]| {
            let has = |kind| times.iter().zip(is_positive).any(|(&n, &positive)| n > 0 && positive == kind);
            has(true) && has(false)
        };
        let samples = if has_both(&vec![1; is_positive.len()]) { self.samples } else { 0 };
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        (0..samples).map(move |_| {
            loop {
                let mut times = vec![0; is_positive.len()];
                (0..times.len()).for_each(|_| times[random.random_range(0..is_positive.len())] += 1);
                if has_both(&times) {
                    return times;
                }
            }
        })
    }
}

/// The 2.5th and the 97.5th percentile of numbers, between neighbours by linear interpolation as `numpy.percentile` has it;
/// `None` where there are no numbers.
pub fn interval(mut numbers: Vec<f64>) -> Option<[f64; 2]> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    Some(PERCENTILES.map(|percentile| {
        let place = percentile / 100.0 * last as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        numbers[below] + (numbers[above] - numbers[below]) * place.fract()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_full_size_with_both_kinds_and_follow_the_seed() {
        let is_positive = [false, true, false, false, false];
        let draw = |seed| Bootstrap { samples: 200, seed }.draw(&is_positive).collect::<Vec<_>>();
        let samples = draw(7);
        assert_eq!(samples.len(), 200);
        for times in &samples {
            assert_eq!(times.iter().sum::<u32>(), 5);
            assert!((1..5).contains(&times[1]), "{times:?}");
        }
        assert_eq!(draw(7), samples);
        assert_ne!(draw(8), samples);
    }

    #[test]
    fn every_patient_is_drawn_as_often_as_the_others() {
        let is_positive: Vec<_> = (0..20).map(|i| i % 2 == 0).collect();
        let mut drawn = [0; 20];
        for times in (Bootstrap { samples: 5_000, seed: 1 }).draw(&is_positive) {
            drawn.iter_mut().zip(times).for_each(|(all, times)| *all += times);
        }
        // Binomial: 5000 ± 69.
        assert!(drawn.iter().all(|n| (4_650..5_350).contains(n)), "{drawn:?}");
    }

    #[test]
    fn patients_of_one_kind_have_no_samples() {
        let bootstrap = Bootstrap { samples: 3, seed: 0 };
        assert_eq!(bootstrap.draw(&[true, true]).count(), 0);
        assert_eq!(bootstrap.draw(&[]).count(), 0);
    }

    /// numpy 2.4.6: `np.percentile([0.3, 0.1, 0.7, 0.2], [2.5, 97.5])`
    #[test]
    fn intervals_are_numpys_percentiles() {
        let [low, high] = interval(vec![0.3, 0.1, 0.7, 0.2]).unwrap();
        assert!((low - 0.1075).abs() < 1e-15 && (high - 0.67).abs() < 1e-15, "{low} {high}");
        assert_eq!(interval(vec![0.5]), Some([0.5, 0.5]));
        assert_eq!(interval(vec![]), None);
    }
}
