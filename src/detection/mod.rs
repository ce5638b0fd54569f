//! From a probability volume to lesion candidates, the detection map and the patient's likelihood, which a classification head
//! may join; from a segmented tumour to the components of it that are believed.

pub mod candidate_options;
pub mod candidates;
pub mod likelihood;
pub mod tumour_components;

pub use candidate_options::{CandidateOptions, Confidence, DynamicVersion, Threshold, ThresholdFactor};
pub use candidates::{CandidateError, LesionCandidates, check_finite, extract_lesion_candidates};
pub use likelihood::{Combine, Likelihood, PatchRule};
pub use tumour_components::ComponentRules;
