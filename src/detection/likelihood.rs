//! One probability of a tumour from two: that of a whole-volume classification head and that of the detection map.

use serde::{Deserialize, Serialize};

/// How the classification head's probability and the detection map's join into the patient's likelihood.
///
/// How the published report joins the two is not published; the default, [`Combine::Mean`], is ours. In JSON the names are
/// `mean`, `max`, `noisy_or`, `map_only` and `head_only`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their arithmetic mean.
    #[default]
    Mean,
    /// The larger of the two.
    Max,
    /// 1 − (1 − head)(1 − map): that at least one of two independent observers is right.
    NoisyOr,
    /// The map's alone.
    MapOnly,
    /// The head's alone.
    HeadOnly,
}

impl Combine {
    /// Returns the joined probability, 0 to 1, of two probabilities from 0 to 1.
    ///
    /// `map` is the largest confidence of the detection map for a patient, or one candidate's confidence for that candidate.
    #[must_use]
    pub fn of(self, head: f64, map: f64) -> f64 {
        match self {
            Self::Mean => f64::midpoint(head, map),
            Self::Max => head.max(map),
            Self::NoisyOr => 1.0 - (1.0 - head) * (1.0 - map),
            Self::MapOnly => map,
            Self::HeadOnly => head,
        }
    }
}

/// How the classification head's probabilities of several patches of a region become one.
///
/// Not stated in the published report; the default, [`PatchRule::Max`], is ours: a lesion is seen best by the patch that holds it.
/// In JSON the names are `max`, `mean` and `centre`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchRule {
    /// The highest.
    #[default]
    Max,
    /// Their arithmetic mean.
    Mean,
    /// That of the patch whose centre is nearest to the region's; of several, the highest.
    Centre,
}

impl PatchRule {
    /// Returns one probability from those of patches, each with the distance of its centre from the region's; `None` of none.
    #[must_use]
    pub fn of(self, patches: &[(f64, f64)]) -> Option<f64> {
        let probabilities = patches.iter().map(|&(probability, _)| probability);
        match self {
            Self::Max => probabilities.max_by(f64::total_cmp),
            Self::Mean => (!patches.is_empty()).then(|| probabilities.sum::<f64>() / patches.len() as f64),
            Self::Centre => {
                let nearest = patches.iter().map(|&(_, distance)| distance).min_by(f64::total_cmp)?;
                let is_near = |&&(_, distance): &&(f64, f64)| distance <= nearest + SAME_DISTANCE;
                patches.iter().filter(is_near).map(|&(probability, _)| probability).max_by(f64::total_cmp)
            }
        }
    }
}

/// Distances that differ by less are equal.
const SAME_DISTANCE: f64 = 1e-6;

/// A patient's likelihood and the two probabilities that it was joined from, 0 to 1; all 0 where no pancreas was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// How the two were joined.
    pub combine: Combine,
    /// How patches became one probability of the head.
    #[serde(default)]
    pub patches: PatchRule,
    /// The classification head's.
    pub head: f64,
    /// The largest confidence of the detection map.
    pub map: f64,
    /// Both together.
    pub joined: f64,
}

#[cfg(test)]
mod tests {
    use super::Combine::{HeadOnly, MapOnly, Max, Mean, NoisyOr};
    use super::*;

    #[test]
    fn two_probabilities_join_as_each_way_says() {
        let (head, map) = (0.5, 0.75);
        for (combine, expected) in
            [(Mean, 0.625), (Max, 0.75), (NoisyOr, 0.875), (MapOnly, 0.75), (HeadOnly, 0.5)]
        {
            assert_eq!(combine.of(head, map), expected, "{combine:?}");
        }
        assert_eq!(Max.of(map, head), 0.75);
    }

    #[test]
    fn certainties_stay_probabilities() {
        for combine in [Mean, Max, NoisyOr, MapOnly, HeadOnly] {
            assert_eq!(combine.of(0.0, 0.0), 0.0, "{combine:?}");
            assert_eq!(combine.of(1.0, 1.0), 1.0, "{combine:?}");
        }
    }

    #[test]
    fn patches_become_one_probability() {
        let patches = [(0.25, 30.0), (0.5, 10.0), (0.125, 10.0), (0.625, 40.0)];
        assert_eq!(PatchRule::Max.of(&patches), Some(0.625));
        assert_eq!(PatchRule::Mean.of(&patches), Some(0.375));
        assert_eq!(PatchRule::Centre.of(&patches), Some(0.5));
        for rule in [PatchRule::Max, PatchRule::Mean, PatchRule::Centre] {
            assert_eq!((rule.of(&[]), rule.of(&[(0.75, 5.0)])), (None, Some(0.75)));
        }
    }

    #[test]
    fn names_in_json_are_snake_case() {
        let names = ["mean", "max", "noisy_or", "map_only", "head_only"];
        for (combine, name) in [Mean, Max, NoisyOr, MapOnly, HeadOnly].into_iter().zip(names) {
            assert_eq!(serde_json::to_value(combine).unwrap(), name);
            assert_eq!(serde_json::from_value::<Combine>(name.into()).unwrap(), combine);
        }
        assert_eq!(Combine::default(), Mean);
        assert!(serde_json::from_value::<Combine>("median".into()).is_err());
    }
}
