//! The sum of two stored values on the CPU.

use super::Isa;
use super::activation::Affine;
use super::kernel::{Vectorised, dispatch};
use crate::ops::value::Activation;
use rayon::prelude::*;
use std::cell::RefCell;

/// Floats that a task takes: two buffers of this size fit into the first-level cache.
const PIECE: usize = 2048;

thread_local! {
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Writes `leaky_relu(a + b)`, (D, H, W, C), to `out`.
pub(in crate::ops) fn add(isa: Isa, [a, b]: [Activation<'_>; 2], negative_slope: f32, out: &mut [f32]) {
    let channels = a.operand.shape.channels.max(1);
    let piece = channels * (PIECE / channels).max(1);
    let affines = [&Affine::of(&a), &Affine::of(&b)];
    let pieces = a.raw.par_chunks(piece).zip(b.raw.par_chunks(piece)).zip(out.par_chunks_mut(piece));
    pieces.with_min_len(8).for_each(|((a, b), out)| {
        BUFFERS.with_borrow_mut(|[_, second]| {
            second.resize(out.len(), 0.0);
            dispatch(isa, AddTask { raw: [a, b], affines, negative_slope, second, out });
        });
    });
}

/// The same where `out` holds `a`, which is to be read with the affine `first`.
pub(in crate::ops) fn add_in_place(
    isa: Isa,
    first: &Affine,
    b: Activation<'_>,
    negative_slope: f32,
    out: &mut [f32],
) {
    let channels = b.operand.shape.channels.max(1);
    let piece = channels * (PIECE / channels).max(1);
    let affines = [first, &Affine::of(&b)];
    let pieces = b.raw.par_chunks(piece).zip(out.par_chunks_mut(piece));
    pieces.with_min_len(8).for_each(|(b, out)| {
        BUFFERS.with_borrow_mut(|[first, second]| {
            first.clear();
            first.extend_from_slice(out);
            second.resize(out.len(), 0.0);
            dispatch(isa, AddTask { raw: [first, b], affines, negative_slope, second, out });
        });
    });
}

/// A few whole voxels.
struct AddTask<'a> {
    raw: [&'a [f32]; 2],
    affines: [&'a Affine; 2],
    negative_slope: f32,
    second: &'a mut [f32],
    out: &'a mut [f32],
}

impl Vectorised for AddTask<'_> {
    #[inline(always)]
    fn run(self) {
        self.affines[0].apply(self.raw[0], self.out);
        self.affines[1].apply(self.raw[1], self.second);
        for (out, &b) in self.out.iter_mut().zip(self.second.iter()) {
            let sum = *out + b;
            *out = if sum >= 0.0 { sum } else { sum * self.negative_slope };
        }
    }
}
