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

#[cfg(test)]
mod tests {
    use super::Combine::{self, HeadOnly, MapOnly, Max, Mean, NoisyOr};

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
