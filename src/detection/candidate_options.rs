//! How lesion candidates are extracted, as a recipe writes it.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::fmt;

/// The arguments of `report_guided_annotation.extract_lesion_candidates` under their Python names, with its
/// defaults for whatever a recipe leaves out.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CandidateOptions {
    /// Which voxels belong to a candidate; `"dynamic-fast"` by default.
    pub threshold: Threshold,
    /// Components of at most this many voxels are dropped (10: those of 11 survive).
    pub min_voxels_detection: usize,
    /// Candidates after which [`Threshold::Dynamic`] stops; the other modes ignore it.
    pub num_lesions_to_extract: usize,
    /// Ratio of a maximum to the threshold derived from it: a larger factor makes larger candidates.
    pub dynamic_threshold_factor: ThresholdFactor,
    /// Decimals to which confidences are rounded, ties to even; not at all by default.
    pub max_prob_round_decimals: Option<u8>,
    /// Whether [`Threshold::Dynamic`] skips candidates that touch one it has stored; the other modes ignore it.
    pub remove_adjacent_lesion_candidates: bool,
}

impl Default for CandidateOptions {
    fn default() -> Self {
        Self {
            threshold: Threshold::DynamicFast(Confidence::Maximum),
            min_voxels_detection: 10,
            num_lesions_to_extract: 5,
            dynamic_threshold_factor: ThresholdFactor(2.5),
            max_prob_round_decimals: None,
            remove_adjacent_lesion_candidates: true,
        }
    }
}

/// How the threshold that bounds the candidates is chosen.
///
/// Read from a number or from one of the names in [`Threshold::NAMED`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// This probability.
    Static(f64),
    /// The volume's maximum divided by the factor, once.
    DynamicFast(Confidence),
    /// The maximum of what is left divided by the factor, candidate after candidate.
    Dynamic {
        /// What to do where nothing above the threshold is large enough.
        version: DynamicVersion,
        /// What a candidate's confidence is.
        confidence: Confidence,
    },
}

/// What a candidate's voxels say about its confidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// Their largest probability.
    Maximum,
    /// Their mean probability.
    Mean,
}

/// The two published behaviours of dynamic extraction when every component is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DynamicVersion {
    /// Extraction ends; if nothing was stored, a zero-confidence candidate covers the whole volume.
    One,
    /// The small components are removed and extraction goes on.
    Two,
}

impl Threshold {
    /// The thresholds that have a name, with the name.
    pub const NAMED: [(&str, Self); 6] = [
        ("dynamic-fast", Self::DynamicFast(Confidence::Maximum)),
        ("dynamic-fast-mean", Self::DynamicFast(Confidence::Mean)),
        ("dynamic", Self::Dynamic { version: DynamicVersion::One, confidence: Confidence::Maximum }),
        ("dynamic-mean", Self::Dynamic { version: DynamicVersion::One, confidence: Confidence::Mean }),
        ("dynamic-v2", Self::Dynamic { version: DynamicVersion::Two, confidence: Confidence::Maximum }),
        ("dynamic-v2-mean", Self::Dynamic { version: DynamicVersion::Two, confidence: Confidence::Mean }),
    ];
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ThresholdVisitor)
    }
}

struct ThresholdVisitor;

impl Visitor<'_> for ThresholdVisitor {
    type Value = Threshold;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a probability from 0 to 1 or one of ")?;
        let names = Threshold::NAMED.map(|(name, _)| format!("\"{name}\""));
        f.write_str(&names.join(", "))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Threshold, E> {
        let named = Threshold::NAMED.into_iter().find(|&(name, _)| name == text);
        named.map(|(_, t)| t).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Threshold, E> {
        if (0.0..=1.0).contains(&value) {
            Ok(Threshold::Static(value))
        } else {
            Err(E::invalid_value(de::Unexpected::Float(value), &self))
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Threshold, E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Threshold, E> {
        self.visit_f64(value as f64)
    }
}

/// The ratio of a maximum to the threshold derived from it: finite and, as `f32`, greater than 1.
///
/// The original accepts any number, but with 1 its version 2 never ends.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(try_from = "f64")]
pub struct ThresholdFactor(f64);

impl ThresholdFactor {
    /// The factor in the precision in which thresholds are computed.
    pub fn as_f32(self) -> f32 {
        self.0 as f32
    }
}

impl TryFrom<f64> for ThresholdFactor {
    type Error = String;

    fn try_from(factor: f64) -> Result<Self, String> {
        if (factor as f32) > 1.0 && (factor as f32).is_finite() {
            Ok(Self(factor))
        } else {
            Err(format!("dynamic_threshold_factor: expected a finite number greater than 1, got {factor}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<CandidateOptions, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_takes_the_originals_default() {
        assert_eq!(parse("{}"), Ok(CandidateOptions::default()));
        let options = parse(r#"{"dynamic_threshold_factor": 15, "max_prob_round_decimals": 4}"#).unwrap();
        assert_eq!(options.dynamic_threshold_factor.as_f32(), 15.0);
        assert_eq!(options.max_prob_round_decimals, Some(4));
    }

    #[test]
    fn thresholds_are_names_or_probabilities() {
        assert_eq!(parse(r#"{"threshold": 0.1}"#).unwrap().threshold, Threshold::Static(0.1));
        assert_eq!(parse(r#"{"threshold": 1}"#).unwrap().threshold, Threshold::Static(1.0));
        for (name, threshold) in Threshold::NAMED {
            assert_eq!(parse(&format!(r#"{{"threshold": "{name}"}}"#)).unwrap().threshold, threshold);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (json, expected) in [
            (
                r#"{"threshold": "dynamic-v3"}"#,
                r#"string "dynamic-v3", expected a probability from 0 to 1 or"#,
            ),
            (r#"{"threshold": -0.5}"#, "floating point `-0.5`, expected a probability"),
            (r#"{"threshold": 10}"#, "floating point `10.0`, expected a probability"),
            (r#"{"threshold": true}"#, "boolean `true`, expected a probability"),
            (r#"{"dynamic_threshold_factor": 1}"#, "expected a finite number greater than 1, got 1"),
            (r#"{"dynamic_threshold_factor": 1e300}"#, "greater than 1, got 1"),
            (r#"{"min_voxels": 10}"#, "unknown field `min_voxels`"),
            (r#"{"min_voxels_detection": -1}"#, "integer `-1`"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
