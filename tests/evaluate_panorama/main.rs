//! `evaluate panorama`: detection metrics against picai_eval, which the challenge uses, and the rules for what is scored.
//!
//! The golden maps and answers are made by `scripts/reference/make_panorama_vectors.py`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agreement;
mod desk;
mod metrics;
mod refusals;
mod rules;
#[path = "../shared_data/mod.rs"]
mod shared_data;
