//! How well a mere threshold on intensity tells patients with a lesion from those without: what a detection has to be better than.

use super::ranking::{Ranking, area_under_roc};
use ndarray::{ArrayRef3, Zip};
use serde::Serialize;

/// Thresholds that are tried, HU.
const LOWEST: i16 = -200;
const HIGHEST: i16 = 300;

/// For each patient, how many voxels of a region there are of each intensity.
#[derive(Debug, Clone, Default)]
pub struct IntensityBaseline {
    patients: Vec<Histogram>,
}

#[derive(Debug, Clone)]
struct Histogram {
    has_lesion: bool,
    voxels: u64,
    /// Voxels below each threshold, from [`LOWEST`] to [`HIGHEST`].
    below: Vec<u64>,
}

/// The threshold that tells patients apart best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BestThreshold {
    /// Voxels below it count, HU.
    pub threshold_hu: i16,
    /// Area under the patients' ROC curve by the share of the region's voxels below the threshold.
    pub auroc: f64,
}

impl IntensityBaseline {
    /// Adds a patient: intensities in HU, and the true labels, of which `region` names those that are looked at.
    pub fn add(&mut self, ct: &ArrayRef3<i16>, labels: &ArrayRef3<u8>, region: &[u8], has_lesion: bool) {
        let mut counts = vec![0u64; usize::from((HIGHEST - LOWEST).unsigned_abs()) + 1];
        let mut voxels = 0;
        Zip::from(ct).and(labels).for_each(|&hu, label| {
            if region.contains(label) {
                voxels += 1;
                // Of an intensity the first threshold above it.
                let first = (i32::from(hu) + 1 - i32::from(LOWEST)).max(0) as usize;
                if let Some(count) = counts.get_mut(first) {
                    *count += 1;
                }
            }
        });
        let mut sum = 0;
        let below = counts.into_iter().map(|count| {
            sum += count;
            sum
        });
        self.patients.push(Histogram { has_lesion, voxels, below: below.collect() });
    }

    /// The best of all thresholds; `None` unless there are patients with and without lesions.
    pub fn best(&self) -> Option<BestThreshold> {
        let once = vec![1; self.patients.len()];
        let at = |(index, threshold_hu): (usize, i16)| {
            let items = self.patients.iter().enumerate().map(|(number, patient)| {
                let share = patient.below[index] as f64 / (patient.voxels as f64).max(1.0);
                (number, share, patient.has_lesion)
            });
            let auroc = area_under_roc(&Ranking::new(items).steps(&once))?;
            Some(BestThreshold { threshold_hu, auroc })
        };
        let all = (LOWEST..=HIGHEST).enumerate().filter_map(at);
        all.reduce(|best, next| if next.auroc > best.auroc { next } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    /// A patient whose region has these intensities; around it there is more.
    fn add(baseline: &mut IntensityBaseline, region: [i16; 3], has_lesion: bool) {
        let ct = Array3::from_shape_vec((1, 1, 5), [&region[..], &[-500, 10]].concat()).unwrap();
        let labels = Array3::from_shape_vec((1, 1, 5), vec![4, 1, 4, 2, 0]).unwrap();
        baseline.add(&ct, &labels, &[1, 4], has_lesion);
    }

    #[test]
    fn the_best_threshold_is_found() {
        let mut baseline = IntensityBaseline::default();
        assert_eq!(baseline.best(), None);
        add(&mut baseline, [100, 101, 99], false);
        add(&mut baseline, [80, 120, 110], false);
        assert_eq!(baseline.best(), None, "all patients are alike");
        add(&mut baseline, [60, 100, 99], true);
        add(&mut baseline, [70, 60, 120], true);
        assert_eq!(baseline.best(), Some(BestThreshold { threshold_hu: 61, auroc: 1.0 }));
        // Above all thresholds, below all of them.
        add(&mut baseline, [2000, 2000, 2000], true);
        add(&mut baseline, [-900, -900, -900], false);
        assert_eq!(baseline.best().unwrap().auroc, 5.0 / 9.0);
    }
}
