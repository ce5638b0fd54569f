//! The GPU's side on the software device (`tests/software_device`), by
//! `scripts/build_cuda.sh test --release --test cuda`: operators, networks, the whole program, and what goes wrong.

#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod algorithms;
mod demonstration;
mod device;
mod faults;
#[path = "../golden_inference/golden.rs"]
mod golden;
mod memory;
mod multitask;
mod networks;
mod operators;
mod program;
mod serving;
#[expect(dead_code, reason = "values on the GPU have no scales and shifts")]
#[path = "../stored_values/mod.rs"]
mod stored_values;
