//! The tile instructions against plain sums: hand-written instruction sequences with odd shapes, strides and operands.
//!
//! On a processor with AMX the very same tests run on the processor, and so check what the emulation is built on.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod emulator;
mod faults;
mod product;
mod registers;
mod sequences;
