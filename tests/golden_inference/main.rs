//! nnU-Net inference and the whole cascade against the Python original with float32 accumulation.
//!
//! The golden files are made by `scripts/reference/make_golden.py`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cascade;
mod golden;
mod nnunet;
