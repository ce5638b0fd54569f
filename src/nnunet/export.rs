//! From logits on the network's grid to labels and probabilities on the scan's, a few slices at a time.
//!
//! Source: nnU-Net v2, `export_prediction.py: convert_predicted_logits_to_segmentation_with_correct_shape` and
//! `label_handling.py`.

mod decision;
mod probabilities;

use super::dataset::OutputKind;
use super::model_folder::ModelFolder;
use super::predictor::{LogitReader, Logits, Patch, ScanGrid};
use super::preprocessing::{BoundingBox, transpose};
use super::resampling::{LogitGrids, Resampling, STRIP, SlabResampler, Strip};
use crate::imaging::memory::bytes;
use crate::imaging::resampling::with_widest_vectors;
use decision::decide;
use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView4, ArrayViewMut2, Axis, s};
pub use probabilities::{MeanProbabilities, add_probabilities};
use std::ops::Range;

/// Logits resampled at a time, at most (unless one slice holds more).
const SLAB_FLOATS: usize = 2 * 1024 * 1024;

/// Slices that a task takes of a strip, so that it reads most logits once.
const SLICES_PER_TASK: usize = 16;

/// How labels are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// The largest float32 probability wins, the first one of equals: what nnU-Net does when it saves probabilities.
    #[default]
    Probabilities,
    /// The largest logit wins, the first one of equals: what nnU-Net does when it does not.
    Logits,
}

/// What to keep of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentationRequest {
    /// How labels are decided (regions always by probability).
    pub decision: Decision,
    /// Head whose probability is kept.
    pub probability_of: Option<usize>,
}

/// A prediction on the scan's grid and in its axis order.
#[derive(Debug, Clone)]
pub struct Segmentation {
    /// Label per voxel, (z, y, x); 0 outside the non-zero crop.
    pub labels: Array3<u16>,
    /// Probability of the requested head, (z, y, x); outside the crop 1 for head 0 of a softmax, else 0.
    pub probability: Option<Array3<f32>>,
    /// What the network's classification head says of each patch, in the order of the tiles; empty if it has none.
    pub patches: Vec<Patch>,
}

/// Labels, and the requested probability, of a prediction.
///
/// # Panics
/// If the logits are not those of `scan` under `model`, which is a programming error.
pub fn segment(
    model: &ModelFolder,
    scan: ScanGrid,
    logits: &Logits,
    request: SegmentationRequest,
) -> Segmentation {
    let (depth, height, width, _) = logits.values.dim();
    let mut export = Export::new(model, scan, [depth, height, width], logits.half, request);
    export.take(0, logits.values.view());
    export.finish()
}

/// A segmentation that is made while the logits become final, plane by plane.
pub(super) struct Export<'m> {
    model: &'m ModelFolder,
    grids: LogitGrids,
    /// On the scan's grid, in the network's axis order; made when the first slices are decided.
    segmentation: Option<Segmentation>,
    full_shape: [usize; 3],
    crop: BoundingBox,
    request: SegmentationRequest,
    /// Slices of the crop that are done.
    done: usize,
}

impl<'m> Export<'m> {
    /// Nothing is decided yet of `scan`, whose image had this `shape` for the network; `half` as in [`Logits`].
    pub fn new(
        model: &'m ModelFolder,
        scan: ScanGrid,
        shape: [usize; 3],
        half: bool,
        request: SegmentationRequest,
    ) -> Self {
        let grids = logit_grids(model, scan, shape, half);
        let ScanGrid { full_shape, crop, .. } = scan;
        Self { model, grids, segmentation: None, full_shape, crop, request, done: 0 }
    }

    /// How logits come to the grid of the crop.
    #[cfg(feature = "cuda")]
    pub fn grids(&self) -> &LogitGrids {
        &self.grids
    }

    /// What is kept of the prediction.
    #[cfg(feature = "cuda")]
    pub fn request(&self) -> SegmentationRequest {
        self.request
    }

    /// The model's heads.
    #[cfg(feature = "cuda")]
    pub fn output_kind(&self) -> &'m OutputKind {
        &self.model.dataset.output
    }

    /// Takes slices of the crop that were decided elsewhere, (slice, y, x); probabilities only if they are asked for.
    #[cfg(feature = "cuda")]
    pub fn put(&mut self, slices: Range<usize>, labels: &[u16], probability: &[f32]) {
        let ([z0, y0, x0], [_, y1, x1]) = (self.crop.start, self.crop.stop);
        let none = || undecided(&self.model.dataset.output, self.full_shape, self.request);
        let segmentation = self.segmentation.get_or_insert_with(none);
        let (rows, columns) = (y1 - y0, x1 - x0);
        self.done = slices.end;
        let inside = s![z0 + slices.start..z0 + slices.end, y0..y1, x0..x1];
        copy_rows(segmentation.labels.slice_mut(inside), labels, rows, columns);
        if let Some(kept) = &mut segmentation.probability {
            copy_rows(kept.slice_mut(inside), probability, rows, columns);
        }
    }

    /// The segmentation on the scan's grid, in its axis order, once all planes have been taken; of patches it knows nothing.
    pub fn finish(self) -> Segmentation {
        debug_assert_eq!(self.done, self.grids.output_shape()[0], "slices that are decided");
        let back = self.model.transpose_backward;
        let none = || undecided(&self.model.dataset.output, self.full_shape, self.request);
        let Segmentation { labels, probability, patches } = self.segmentation.unwrap_or_else(none);
        let probability = probability.map(|p| transpose(p, back));
        Segmentation { labels: transpose(labels, back), probability, patches }
    }
}

impl LogitReader for Export<'_> {
    fn bytes(&self) -> u128 {
        let probability = self.request.probability_of.map_or(0, |_| size_of::<f32>());
        bytes(&self.full_shape, size_of::<u16>() + probability)
    }

    fn needed_from(&self, end: usize) -> usize {
        self.grids.needed_from(end)
    }

    fn take(&mut self, first: usize, planes: ArrayView4<'_, f32>) {
        let ready = self.grids.slices_ready(first + planes.dim().0);
        let slices = self.done..ready.max(self.done);
        if slices.is_empty() {
            return;
        }
        self.done = slices.end;
        let resampler = self.grids.over(first, planes);
        let kind = &self.model.dataset.output;
        let none = || undecided(kind, self.full_shape, self.request);
        let segmentation = self.segmentation.get_or_insert_with(none);
        decide_slices(segmentation, &resampler, kind, &self.crop, self.request, slices);
    }
}

/// Labels, and the requested probability, of logits that `resampler` brings to the grid of `crop`, the part of a scan of
/// `full_shape` that was predicted; all (z, y, x) in the network's axis order.
///
/// # Panics
/// If `crop` reaches beyond `full_shape` or is of another shape than the resampler's output, which is a programming error.
pub fn segment_resampled(
    resampler: &SlabResampler<'_>,
    kind: &OutputKind,
    full_shape: [usize; 3],
    crop: &BoundingBox,
    request: SegmentationRequest,
) -> Segmentation {
    let mut segmentation = undecided(kind, full_shape, request);
    let slices = 0..resampler.output_shape()[0];
    decide_slices(&mut segmentation, resampler, kind, crop, request, slices);
    segmentation
}

/// Fills a part of a volume with (slice, y, x) values.
#[cfg(feature = "cuda")]
fn copy_rows<T: Copy + Send + Sync>(
    mut to: ndarray::ArrayViewMut3<'_, T>,
    from: &[T],
    rows: usize,
    columns: usize,
) {
    let slices = to
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .zip(rayon::slice::ParallelSlice::par_chunks_exact(from, (rows * columns).max(1)));
    slices.for_each(|(mut slice, from)| {
        for (mut row, from) in slice.axis_iter_mut(Axis(0)).zip(from.chunks_exact(columns)) {
            row.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
        }
    });
}

/// What every voxel outside the crop is.
fn undecided(kind: &OutputKind, full_shape: [usize; 3], request: SegmentationRequest) -> Segmentation {
    let outside = match (kind, request.probability_of) {
        (OutputKind::Labels { .. }, Some(0)) => 1.0,
        _ => 0.0,
    };
    let probability = request.probability_of.map(|_| Array3::from_elem(full_shape, outside));
    Segmentation { labels: Array3::zeros(full_shape), probability, patches: Vec::new() }
}

/// Decides `slices` of the crop.
fn decide_slices(
    segmentation: &mut Segmentation,
    resampler: &SlabResampler<'_>,
    kind: &OutputKind,
    crop: &BoundingBox,
    request: SegmentationRequest,
    slices: Range<usize>,
) {
    assert_eq!(crop.shape(), resampler.output_shape(), "shape of the crop");
    let ([z0, y0, x0], [_, y1, x1]) = (crop.start, crop.stop);
    let [first, last] = [slices.start, slices.end].map(|z| z0 + z);
    let mut labels_inside = segmentation.labels.slice_mut(s![first..last, y0..y1, x0..x1]);
    // A volume without columns stands for no volume.
    let mut none = Array3::zeros((last, y1, 0));
    let (probability, columns) = match &mut segmentation.probability {
        Some(probability) => (probability, x0..x1),
        None => (&mut none, 0..0),
    };
    let mut probability_inside = probability.slice_mut(s![first..last, y0..y1, columns]);
    // Strips of one height after each other: neighbours along z read the same logits.
    let strips = labels_inside.axis_chunks_iter_mut(Axis(1), STRIP).into_par_iter();
    let strips = strips.zip(probability_inside.axis_chunks_iter_mut(Axis(1), STRIP));
    strips.enumerate().for_each(|(i, (mut labels, mut probability))| {
        let ys = i * STRIP..i * STRIP + labels.len_of(Axis(1));
        let rows = labels.axis_iter_mut(Axis(0)).into_par_iter();
        let rows = rows.zip(probability.axis_iter_mut(Axis(0))).enumerate().with_min_len(SLICES_PER_TASK);
        rows.for_each_init(Decided::default, |decided, (z, (labels, probability))| {
            with_widest_vectors(
                #[inline(always)]
                || {
                    decided.fill(resampler, slices.start + z, ys.clone(), kind, request);
                    decided.write(labels, probability);
                },
            );
        });
    });
}

/// A strip of decided voxels, and memory that is kept from strip to strip.
#[derive(Default)]
struct Decided {
    strip: Strip,
    /// Labels along x, rows as lanes.
    labels: Vec<[u16; STRIP]>,
    /// Probabilities along x, rows as lanes.
    probability: Vec<[f32; STRIP]>,
}

impl Decided {
    /// Decides the rows `ys` of slice `z`.
    #[inline(always)]
    fn fill(
        &mut self,
        resampler: &SlabResampler<'_>,
        z: usize,
        ys: Range<usize>,
        kind: &OutputKind,
        request: SegmentationRequest,
    ) {
        resampler.strip(z, ys, &mut self.strip);
        self.labels.clear();
        self.probability.clear();
        for logits in self.strip.values.chunks_exact_mut(resampler.channels()) {
            let (labels, probability) = decide(kind, request, logits);
            self.labels.push(labels);
            self.probability.push(probability);
        }
    }

    /// Writes what was decided, rows to rows.
    #[inline(always)]
    fn write(&self, mut labels: ArrayViewMut2<'_, u16>, mut probability: ArrayViewMut2<'_, f32>) {
        for (lane, mut row) in labels.outer_iter_mut().enumerate() {
            row.iter_mut().zip(&self.labels).for_each(|(v, lanes)| *v = lanes[lane]);
        }
        for (lane, mut row) in probability.outer_iter_mut().enumerate() {
            row.iter_mut().zip(&self.probability).for_each(|(v, lanes)| *v = lanes[lane]);
        }
    }
}

/// What brings logits of this shape to the cropped scan's grid; `half` as in [`Logits`].
fn logit_grids(model: &ModelFolder, scan: ScanGrid, shape: [usize; 3], half: bool) -> LogitGrids {
    let configuration = &model.configuration;
    let resampling = &configuration.probability_resampling;
    LogitGrids::new(shape, scan.crop.shape(), configuration.spacing, scan.spacing, resampling)
        .round_to_half(half && matches!(resampling, Resampling::Default { .. }))
}

/// Calls `visit` with the logits of a few slices at a time, resampled to the cropped scan's grid: the slices along
/// the network's first axis, and (slices, height, width, heads) in standard layout.
pub fn for_each_slab(
    model: &ModelFolder,
    scan: ScanGrid,
    logits: &Logits,
    mut visit: impl FnMut(Range<usize>, ArrayView4<'_, f32>),
) {
    let [depth, height, width] = scan.crop.shape();
    let (z, y, x, heads) = logits.values.dim();
    let slices = (SLAB_FLOATS / (height * width * heads)).max(1);
    let grids = logit_grids(model, scan, [z, y, x], logits.half);
    let resampler = grids.over(0, logits.values.view());
    for start in (0..depth).step_by(slices) {
        let z = start..(start + slices).min(depth);
        visit(z.clone(), resampler.slab(z).view());
    }
}
