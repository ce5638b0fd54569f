//! From a probability volume to lesion candidates, the detection map and the patient's likelihood.

pub mod candidates;
