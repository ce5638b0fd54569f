//! Logits resampled a few output slices at a time, so that their volume at the image's resolution never exists.

use super::{GridChange, Resampling, clip::Clip};
use crate::imaging::resampling::{
    AxisOperator, LANES, Pitch, transpose, weighted_columns, weighted_rows, with_widest_vectors,
};
use ndarray::{Array4, ArrayView4, ArrayViewMut4, CowArray, Ix4};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Output rows that are resampled together, one per lane of the vector units.
pub(in crate::nnunet) const STRIP: usize = LANES;

/// How logits come from the network's grid to the image's, whichever planes of them there are.
#[derive(Debug, Clone)]
pub struct LogitGrids {
    /// Where results are clipped it is to the range of all logits, so none can be had before all are there.
    change: GridChange,
    round_to_half: bool,
}

impl LogitGrids {
    /// From `shape` to `new_shape`, both (z, y, x).
    ///
    /// The spacings (mm, in the array's axis order) only decide whether an axis is treated on its own; at export the
    /// current one is the plans' and the new one the image's.
    pub fn new(
        shape: [usize; 3],
        new_shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
        resampling: &Resampling,
    ) -> Self {
        let change = GridChange::new(shape, new_shape, current_spacing, new_spacing, resampling);
        Self { change, round_to_half: false }
    }

    /// The same with results rounded to `float16` values, ties to even.
    ///
    /// nnU-Net's `resample_data_or_seg_to_shape` returns the type it was given, which for logits is `float16`;
    /// `resample_torch_fornnunet` returns `float32`.
    #[must_use]
    pub fn round_to_half(self, round_to_half: bool) -> Self {
        Self { round_to_half, ..self }
    }

    /// The operators, and whether results are rounded to `float16` values.
    #[cfg(feature = "cuda")]
    pub(in crate::nnunet) fn change(&self) -> (&GridChange, bool) {
        (&self.change, self.round_to_half)
    }

    /// Shape of the whole output (z, y, x).
    pub fn output_shape(&self) -> [usize; 3] {
        self.change.operators.each_ref().map(AxisOperator::output_len)
    }

    /// How many output slices, from the first on, need no other logits than those of the planes before `end`.
    pub fn slices_ready(&self, end: usize) -> usize {
        let across = &self.change.operators[0];
        if self.change.clips && end < across.input_len() {
            return 0;
        }
        (0..across.output_len()).take_while(|&z| across.row(z).0 + across.taps() <= end).count()
    }

    /// The first plane of logits that slices still need when those are done that are ready with the planes before `end`.
    pub fn needed_from(&self, end: usize) -> usize {
        let across = &self.change.operators[0];
        let left = self.slices_ready(end)..across.output_len();
        // The range of all logits is taken from all planes.
        let first = |z| if self.change.clips { 0 } else { across.row(z).0 };
        left.map(first).fold(end, usize::min)
    }

    /// A resampler of some planes of logits (z, y, x, channels), the first of which is plane `first` of all.
    ///
    /// # Panics
    /// If the logits have another shape than these grids, or some of them lack although results are clipped to the range of
    /// all, which are programming errors.
    #[expect(clippy::needless_pass_by_value, reason = "views are passed by value, as everywhere in ndarray")]
    pub fn over<'a>(&'a self, first: usize, logits: ArrayView4<'a, f32>) -> SlabResampler<'a> {
        SlabResampler::over(Cow::Borrowed(self), first, &logits)
    }
}

/// Logits on the network's grid, and how to get any slices of them on the image's.
///
/// Each channel comes out as [`super::resample_image`] would make it, to `f32` rounding.
#[derive(Debug)]
pub struct SlabResampler<'a> {
    /// Planes from `first` on.
    logits: CowArray<'a, f32, Ix4>,
    first: usize,
    grids: Cow<'a, LogitGrids>,
    clip: Option<Clip>,
}

impl<'a> SlabResampler<'a> {
    /// A resampler of `logits` (z, y, x, channels) to `new_shape` (z, y, x), as [`LogitGrids::new`] has it.
    #[expect(clippy::needless_pass_by_value, reason = "views are passed by value, as everywhere in ndarray")]
    pub fn new(
        logits: ArrayView4<'a, f32>,
        new_shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
        resampling: &Resampling,
    ) -> Self {
        let (z, y, x, _) = logits.dim();
        let grids = LogitGrids::new([z, y, x], new_shape, current_spacing, new_spacing, resampling);
        Self::over(Cow::Owned(grids), 0, &logits)
    }

    /// Logits in another than the standard layout are copied.
    fn over(grids: Cow<'a, LogitGrids>, first: usize, logits: &ArrayView4<'a, f32>) -> Self {
        let (planes, height, width, _) = logits.dim();
        let expected = grids.change.operators.each_ref().map(AxisOperator::input_len);
        assert!(first + planes <= expected[0], "{planes} planes from {first} on, of {}", expected[0]);
        assert_eq!([height, width], expected[1..], "shape of a plane");
        let logits = if logits.is_standard_layout() {
            CowArray::from(*logits)
        } else {
            CowArray::from(logits.as_standard_layout().into_owned())
        };
        let clip = grids.change.clips.then(|| {
            assert_eq!(planes, expected[0], "planes to take the range from");
            Clip::to_range_of(&logits.view(), grids.change.separate, &grids.change.operators)
        });
        Self { logits, first, grids, clip }
    }

    /// As [`LogitGrids::round_to_half`].
    #[must_use]
    pub fn round_to_half(mut self, round_to_half: bool) -> Self {
        self.grids.to_mut().round_to_half = round_to_half;
        self
    }

    /// Shape of the whole output (z, y, x).
    pub fn output_shape(&self) -> [usize; 3] {
        self.grids.output_shape()
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.logits.dim().3
    }

    /// The output slices `z`: an array (`z.len()`, y, x, channels).
    ///
    /// # Panics
    /// If `z` reaches beyond the output, which is a programming error.
    pub fn slab(&self, z: Range<usize>) -> Array4<f32> {
        let [_, height, width] = self.output_shape();
        let mut out = Array4::zeros((z.len(), height, width, self.channels()));
        self.slab_into(z, out.view_mut());
        out
    }

    /// Writes the output slices `z` to `out`, an array (`z.len()`, y, x, channels) in standard layout.
    ///
    /// # Panics
    /// If `z` reaches beyond the output or `out` has another shape or layout, which are programming errors.
    pub fn slab_into(&self, z: Range<usize>, mut out: ArrayViewMut4<'_, f32>) {
        let [depth, height, width] = self.output_shape();
        let channels = self.channels();
        assert!(z.end <= depth, "slices {z:?} of {depth}");
        assert_eq!(out.dim(), (z.len(), height, width, channels), "shape of the slab");
        assert!(out.is_standard_layout(), "layout of the slab");
        let row = width * channels;
        let Some(out) = out.as_slice_mut().filter(|out| !out.is_empty()) else { return };
        out.par_chunks_mut(height * row).zip(z).for_each(|(slice, z)| {
            let tasks = slice.par_chunks_mut(STRIP * row).enumerate();
            tasks.for_each_init(Strip::default, |strip, (task, rows)| {
                with_widest_vectors(
                    #[inline(always)]
                    || {
                        let count = rows.len() / row;
                        self.strip(z, task * STRIP..task * STRIP + count, strip);
                        let values = strip.values.as_flattened();
                        transpose(values, Pitch { rows: row, stride: STRIP }, count, rows, row);
                    },
                );
            });
        });
    }

    /// The output rows `ys` of slice `z`, at most [`STRIP`] of them: along z, then y, then x.
    #[inline(always)]
    pub(in crate::nnunet) fn strip(&self, z: usize, ys: Range<usize>, strip: &mut Strip) {
        let [across_slices, across_rows, along_rows] = &self.grids.change.operators;
        let (_, height, width, channels) = self.logits.dim();
        let row_len = width * channels;
        let needed = rows_needed(across_rows, ys.clone());

        let (first, weights) = across_slices.row(z);
        let logits = self.logits.as_slice().unwrap_or(&[]);
        let source = &logits[((first - self.first) * height + needed.start) * row_len..];
        let needed_len = needed.len() * row_len;
        let band = if let [1.0] = weights {
            &source[..needed_len]
        } else {
            strip.band.resize(needed_len, 0.0);
            weighted_rows(&mut strip.band, source, height * row_len, weights);
            &strip.band
        };
        strip.columns.resize(row_len, [0.0; STRIP]);
        columns_of_rows(&mut strip.columns, band, needed.start, ys.clone(), across_rows);

        strip.values.resize(along_rows.output_len() * channels, [0.0; STRIP]);
        let columns = strip.columns.as_flattened();
        for (x, sample) in strip.values.chunks_exact_mut(channels).enumerate() {
            let (first, weights) = along_rows.row(x);
            let stride = channels * STRIP;
            weighted_rows(sample.as_flattened_mut(), &columns[first * stride..], stride, weights);
            if let Some(clip) = &self.clip {
                clip_sample(clip, sample, z, ys.clone(), x);
            }
            if self.grids.round_to_half {
                for v in sample.as_flattened_mut() {
                    *v = to_half(*v);
                }
            }
        }
    }
}

/// Up to [`STRIP`] output rows of one slice side by side, and memory that is kept from strip to strip.
#[derive(Debug, Default)]
pub(in crate::nnunet) struct Strip {
    /// The input rows that are needed, already resampled along z.
    band: Vec<f32>,
    /// (x, channels) of the rows as lanes, already resampled along z and y.
    columns: Vec<[f32; STRIP]>,
    /// (x, channels) of the rows as lanes; lanes that belong to no row hold anything.
    pub(in crate::nnunet) values: Vec<[f32; STRIP]>,
}

/// Resamples along y and turns the result: lane `i` of `columns` becomes output row `ys.start + i`. The first row of `band` is
/// input row `first_row`.
#[inline(always)]
fn columns_of_rows(
    columns: &mut [[f32; STRIP]],
    band: &[f32],
    first_row: usize,
    ys: Range<usize>,
    operator: &AxisOperator,
) {
    let stride = columns.len();
    let (blocks, rest) = columns.as_chunks_mut::<LANES>();
    let done = blocks.len() * LANES;
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut rows = [[0.0; LANES]; STRIP];
        for (row, y) in rows.iter_mut().zip(ys.clone()) {
            let (first, weights) = operator.row(y);
            *row = weighted_columns(&band[(first - first_row) * stride + b * LANES..], stride, weights);
        }
        for (c, column) in block.iter_mut().enumerate() {
            for lane in 0..STRIP {
                column[lane] = rows[lane][c];
            }
        }
    }
    for (c, column) in rest.iter_mut().enumerate() {
        for (v, y) in column.iter_mut().zip(ys.clone()) {
            let (first, weights) = operator.row(y);
            [*v] = weighted_columns(&band[(first - first_row) * stride + done + c..], stride, weights);
        }
    }
}

/// Clips the sample at `x` of the rows `ys` of slice `z`.
fn clip_sample(clip: &Clip, sample: &mut [[f32; STRIP]], z: usize, ys: Range<usize>, x: usize) {
    for (channel, lanes) in sample.iter_mut().enumerate() {
        for (v, y) in lanes.iter_mut().zip(ys.clone()) {
            *v = clip.clip(*v, channel, [z, y, x]);
        }
    }
}

/// The input rows that the output rows `ys` are made of.
fn rows_needed(operator: &AxisOperator, ys: Range<usize>) -> Range<usize> {
    let first = |y| operator.row(y).0;
    let start = ys.clone().map(first).min().unwrap_or(0);
    let end = ys.map(first).max().map_or(0, |f| f + operator.taps());
    start..end
}

/// The `float16` value nearest to `v`, ties to even, as `f32`; infinite from 65520 on.
///
/// Without branches and tables, so that it runs on vectors; `half`'s conversion is scalar where F16C is not assumed.
#[inline(always)]
fn to_half(v: f32) -> f32 {
    const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;
    const OVERFLOW: f32 = 65520.0;
    let magnitude = v.abs();
    // float16 keeps 10 of the 23 fraction bits.
    let bits = magnitude.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff);
    // Subnormal float16 are multiples of 2^-24, which is the last place of f32 between 0.5 and 1.
    let subnormal = (magnitude + 0.5) - 0.5;
    let rounded = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    let bounded = if magnitude >= OVERFLOW { f32::INFINITY } else { rounded };
    let finite_or_infinite = bounded.copysign(v);
    if v.is_nan() { v } else { finite_or_infinite }
}

#[cfg(test)]
mod tests {
    use super::to_half;
    use half::f16;

    #[test]
    fn half_rounding_is_that_of_the_half_crate() {
        // Every half, its neighbours in single precision, and the ties between halves with theirs.
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            for v in [value, (value + next) / 2.0, 65519.996, 65520.0, 1e30] {
                for v in [v, v.next_up(), v.next_down()] {
                    let expected = f16::from_f32(v).to_f32();
                    let same =
                        to_half(v).to_bits() == expected.to_bits() || v.is_nan() && to_half(v).is_nan();
                    assert!(same, "{v:e}: {:e}, not {expected:e}", to_half(v));
                }
            }
        }
    }
}
