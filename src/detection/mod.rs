//! From a probability volume to lesion candidates, the detection map and the patient's likelihood.

pub mod candidate_options;
pub mod candidates;

pub use candidate_options::{CandidateOptions, Confidence, DynamicVersion, Threshold, ThresholdFactor};
pub use candidates::{CandidateError, LesionCandidates, extract_lesion_candidates};
