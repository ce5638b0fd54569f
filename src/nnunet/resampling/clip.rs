//! Clipping what a cubic spline makes to the range of what it was made from.

use crate::imaging::resampling::AxisOperator;
use ndarray::ArrayView4;
use rayon::prelude::*;

/// Smallest and largest value.
type Range = [f32; 2];

const EMPTY: Range = [f32::INFINITY, f32::NEG_INFINITY];

/// The range of an input array, per channel, and per slice where an axis is treated on its own.
#[derive(Debug, Clone)]
pub(super) struct Clip {
    channels: usize,
    /// The axis whose slices have ranges of their own.
    axis: Option<usize>,
    /// The input slice that each output slice across that axis comes from.
    source: Vec<usize>,
    /// Range of each (slice, channel).
    ranges: Vec<Range>,
}

impl Clip {
    /// Clipping to the range of `data` (z, y, x, channels; standard layout) as `operators` resample it.
    pub(super) fn to_range_of(
        data: &ArrayView4<'_, f32>,
        axis: Option<usize>,
        operators: &[AxisOperator; 3],
    ) -> Self {
        let (_, height, width, channels) = data.dim();
        let slices = axis.map_or(1, |a| data.shape()[a]);
        let source =
            axis.map_or(vec![], |a| (0..operators[a].output_len()).map(|o| operators[a].source(o)).collect());
        let row_len = width * channels;
        let rows = data.as_slice().unwrap_or(&[]).par_chunks(row_len.max(1)).enumerate();
        let ranges = rows
            .fold(
                || vec![EMPTY; slices * channels],
                |mut ranges, (r, row)| {
                    match axis {
                        None => widen_all(&mut ranges, row),
                        Some(0) => widen_all(&mut ranges[r / height * channels..][..channels], row),
                        Some(1) => widen_all(&mut ranges[r % height * channels..][..channels], row),
                        Some(_) => widen_each(&mut ranges, row),
                    }
                    ranges
                },
            )
            .reduce(
                || vec![EMPTY; slices * channels],
                |a, b| a.into_iter().zip(b).map(|(a, b)| [a[0].min(b[0]), a[1].max(b[1])]).collect(),
            );
        Self { channels, axis, source, ranges }
    }

    /// Clips the output row along x at (z, y) of a single channel.
    pub(super) fn row(&self, row: &mut [f32], [z, y]: [usize; 2]) {
        if self.axis == Some(2) {
            row.iter_mut().enumerate().for_each(|(x, v)| *v = self.clip(*v, 0, [z, y, x]));
        } else {
            let [low, high] = self.range(0, [z, y, 0]);
            row.iter_mut().for_each(|v| *v = v.max(low).min(high));
        }
    }

    /// The output value of a channel at (z, y, x), clipped.
    pub(super) fn clip(&self, value: f32, channel: usize, at: [usize; 3]) -> f32 {
        let [low, high] = self.range(channel, at);
        value.max(low).min(high)
    }

    /// The range of a channel at the output voxel (z, y, x).
    fn range(&self, channel: usize, at: [usize; 3]) -> Range {
        let slice = self.axis.map_or(0, |axis| self.source[at[axis]]);
        self.ranges[slice * self.channels + channel]
    }
}

/// Widens each range to hold its value.
fn widen_each(ranges: &mut [Range], values: &[f32]) {
    for ([low, high], &v) in ranges.iter_mut().zip(values) {
        *low = if v < *low { v } else { *low };
        *high = if v > *high { v } else { *high };
    }
}

/// Widens each channel's range to hold its values in a row (x, channels).
fn widen_all(ranges: &mut [Range], row: &[f32]) {
    let [range] = ranges else {
        let channels = ranges.len();
        return row.chunks_exact(channels).for_each(|sample| widen_each(ranges, sample));
    };
    // One channel is the whole image: sixteen running ranges instead of one, for the vector units.
    let mut lanes = ([range[0]; 16], [range[1]; 16]);
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (i, &v) in block.iter().enumerate() {
            lanes.0[i] = if v < lanes.0[i] { v } else { lanes.0[i] };
            lanes.1[i] = if v > lanes.1[i] { v } else { lanes.1[i] };
        }
    }
    range[0] = rest.iter().chain(&lanes.0).fold(range[0], |low, &v| low.min(v));
    range[1] = rest.iter().chain(&lanes.1).fold(range[1], |high, &v| high.max(v));
}
