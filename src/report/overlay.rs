//! The detection map drawn over the CT: one figure by which a radiologist can judge a case at a glance.
//!
//! Three panels side by side (axial, coronal, sagittal) through the most confident candidate, in radiological
//! convention whatever the scan's axes, then a colour bar. Oblique scans are shown along the anatomical axis
//! nearest to each of theirs. The letters are a built-in 5 × 7 font of just the signs used here.

mod canvas;

pub use canvas::RgbImage;

use crate::imaging::components::{Components, Connectivity};
use crate::imaging::geometry::{Geometry, Matrix3};
use crate::imaging::volume::Volume;
use canvas::{TEXT_HEIGHT, text_width};
use ndarray::{Array2, Array3, ArrayRef2, ArrayRef3, ArrayView3, Axis};

/// Which intensities (Hounsfield units in CT) are shown: `centre - width / 2` is black, `centre + width / 2` white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Mid-grey, HU.
    pub centre: f32,
    /// From black to white, HU; positive.
    pub width: f32,
}

impl Default for Window {
    /// The soft tissue of the abdomen: 60 ± 200 HU.
    fn default() -> Self {
        Self { centre: 60.0, width: 400.0 }
    }
}

impl Window {
    /// A window for intensities without a unit: all but the lowest and highest hundredth of them.
    pub fn of_most(values: &Array3<f32>) -> Self {
        let mut sorted: Vec<f32> =
            values.iter().copied().step_by(values.len().div_ceil(SAMPLES).max(1)).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let at =
            |part: usize| sorted.get(part * sorted.len().saturating_sub(1) / 100).copied().unwrap_or(0.0);
        let (low, high) = (at(1), at(99));
        Self { centre: (low + high) / 2.0, width: (high - low).max(f32::MIN_POSITIVE) }
    }
}

/// Voxels that a window is chosen by, at most.
const SAMPLES: usize = 1 << 20;

/// Why a figure cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The detection map lies on another grid than the CT.
    #[error("detection map: expected the CT's shape (z, y, x) = {expected:?}, got {got:?}")]
    Shape {
        /// The CT's shape.
        expected: [usize; 3],
        /// The map's.
        got: [usize; 3],
    },
    /// There is no voxel to show.
    #[error("CT: expected at least one voxel, got shape (z, y, x) = {0:?}")]
    Empty([usize; 3]),
}

/// Height of the tallest panel in pixels, unless the figure would become wider than [`MAX_PANELS_WIDTH`].
const PANEL_HEIGHT: usize = 384;
/// Limit in pixels of the three panels' widths together.
const MAX_PANELS_WIDTH: usize = 1600;
/// Lowest height in pixels of the row of panels.
const MIN_ROW_HEIGHT: usize = 256;
/// Black space in pixels around the panels.
const MARGIN: usize = 8;
/// Width in pixels of the colour bar.
const BAR_WIDTH: usize = 16;
/// How much of a candidate's inside is its colour.
const FILL_OPACITY: f32 = 0.4;
/// The colours of confidences 0, 1/3, 2/3 and 1: the upper part of matplotlib's "inferno", whose lightness
/// rises evenly, so that it can be read in any kind of colour vision and never is black.
const COLOURS: [[u8; 3]; 4] = [[120, 28, 109], [203, 65, 73], [251, 155, 6], [252, 255, 164]];

/// A figure of the CT (HU) with a detection map (0–1) on the same grid over it.
///
/// The panels meet in the most confident candidate, or in the volume's centre if the map is empty. Pixels are
/// square and of one size in all panels; the CT is interpolated linearly, the map by nearest neighbour.
///
/// # Errors
/// [`OverlayError::Shape`] if the map's shape is not the CT's, [`OverlayError::Empty`] if they have no voxel.
pub fn draw_overlay(ct: &Volume<f32>, map: &Volume<f32>, window: Window) -> Result<RgbImage, OverlayError> {
    if ct.geometry.shape != map.geometry.shape {
        return Err(OverlayError::Shape { expected: ct.geometry.shape, got: map.geometry.shape });
    }
    if ct.geometry.is_empty() {
        return Err(OverlayError::Empty(ct.geometry.shape));
    }
    let axes = AnatomicalAxes::of(&ct.geometry.direction);
    let (ct_view, map_view) = (axes.apply(&ct.data), axes.apply(&map.data));
    let spacing = axes.order.map(|axis| ct.geometry.spacing[axis]);
    let (focus, confidence) = find_focus(&map_view, spacing);

    let layout = Layout::of(&ct.geometry, &axes);
    let mut image = RgbImage::black(layout.width, layout.height);
    for (plane, panel) in PLANES.iter().zip(&layout.panels) {
        let cut = Axis(plane.across);
        draw_ct(&mut image, panel, &ct_view.index_axis(cut, focus[plane.across]), window);
        draw_map(&mut image, panel, &map_view.index_axis(cut, focus[plane.across]));
        draw_markers(&mut image, panel, plane.markers);
    }
    draw_colour_bar(&mut image, &layout, confidence);
    let below = MARGIN + layout.row_height + MARGIN;
    image.write([MARGIN, below], &format!("max {confidence:.2}"));
    Ok(image)
}

/// One way to cut a volume whose axes run (down, back, patient's left).
struct Plane {
    /// The axis that the plane cuts; the two others are its rows and columns, in this order.
    across: usize,
    /// What lies to the left, right, top and bottom.
    markers: [&'static str; 4],
}

/// Axial, coronal and sagittal.
const PLANES: [Plane; 3] = [
    Plane { across: 0, markers: ["R", "L", "A", "P"] },
    Plane { across: 1, markers: ["R", "L", "S", "I"] },
    Plane { across: 2, markers: ["A", "P", "S", "I"] },
];

/// How to see an array (z, y, x) with axes that run down, to the back and to the patient's left.
struct AnatomicalAxes {
    /// The array axis that runs closest to each of the three.
    order: [usize; 3],
    /// Whether it runs the other way.
    is_reversed: [bool; 3],
}

impl AnatomicalAxes {
    /// The axes for a direction matrix, each array axis used once: the largest cosine is settled first.
    fn of(direction: &Matrix3) -> Self {
        let mut axes = Self { order: [0; 3], is_reversed: [false; 3] };
        let mut pairs: Vec<_> = (0..9).map(|n| (n / 3, n % 3)).collect();
        pairs.sort_by(|a, b| direction[b.0][b.1].abs().total_cmp(&direction[a.0][a.1].abs()));
        while let Some(&(lps, column)) = pairs.first() {
            // LPS counts left, back, up; the view counts down, back, left.
            axes.order[2 - lps] = 2 - column;
            axes.is_reversed[2 - lps] = (direction[lps][column] < 0.0) != (lps == 2);
            pairs.retain(|pair| pair.0 != lps && pair.1 != column);
        }
        axes
    }

    fn apply<'a>(&self, array: &'a ArrayRef3<f32>) -> ArrayView3<'a, f32> {
        let mut view = array.view().permuted_axes(self.order);
        for (axis, _) in self.is_reversed.iter().enumerate().filter(|(_, reversed)| **reversed) {
            view.invert_axis(Axis(axis));
        }
        view
    }
}

/// The voxel that the panels meet in, and the confidence there: of the largest candidate with the highest
/// confidence, the voxel nearest to its centre of mass; else the volume's centre and 0.
fn find_focus(map: &ArrayRef3<f32>, spacing: [f64; 3]) -> ([usize; 3], f32) {
    let shape = [map.len_of(Axis(0)), map.len_of(Axis(1)), map.len_of(Axis(2))];
    let largest = map.iter().copied().fold(0.0, f32::max);
    if largest <= 0.0 {
        return (shape.map(|n| n / 2), 0.0);
    }
    let candidates = Components::find(map, Connectivity::Corners, |&value| value == largest);
    // Of equally confident ones the largest, the first one of equals.
    let focused = (0..candidates.count()).rev().max_by_key(|&candidate| candidates.sizes[candidate]);
    let voxels = || {
        let runs = candidates.runs.iter().filter(|run| focused == Some(run.label as usize - 1));
        runs.flat_map(|run| (run.start..run.stop).map(|x| [run.z, run.y, x]))
    };
    let mut sums = [0.0; 3];
    for voxel in voxels() {
        sums = std::array::from_fn(|axis| sums[axis] + voxel[axis] as f64);
    }
    let centre = sums.map(|sum| sum / voxels().count() as f64);
    let distance = |voxel: &[usize; 3]| -> f64 {
        (0..3).map(|axis| ((voxel[axis] as f64 - centre[axis]) * spacing[axis]).powi(2)).sum()
    };
    let nearest = voxels().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    (nearest.unwrap_or(shape.map(|n| n / 2)), largest)
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy)]
struct Panel {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

/// Where everything stands.
struct Layout {
    /// Axial, coronal, sagittal.
    panels: [Panel; 3],
    /// Height of the row that the panels stand in, below one margin.
    row_height: usize,
    width: usize,
    height: usize,
}

impl Layout {
    fn of(geometry: &Geometry, axes: &AnatomicalAxes) -> Self {
        let extents = axes.order.map(|axis| geometry.shape[axis] as f64 * geometry.spacing[axis]);
        let [down, back, left] = extents;
        let scale =
            (PANEL_HEIGHT as f64 / down.max(back)).min(MAX_PANELS_WIDTH as f64 / (left + left + back));
        let [down, back, left] = extents.map(|extent| ((extent * scale).round() as usize).max(1));
        let row_height = down.max(back).max(MIN_ROW_HEIGHT);
        let mut next = MARGIN;
        let panels = [[left, back], [left, down], [back, down]].map(|[width, height]| {
            let panel = Panel { left: next, top: MARGIN + (row_height - height) / 2, width, height };
            next += width + MARGIN;
            panel
        });
        let width = next + MARGIN + BAR_WIDTH + MARGIN + text_width("1") + MARGIN;
        Self { panels, row_height, width, height: row_height + 3 * MARGIN + TEXT_HEIGHT }
    }
}

/// For each of `pixels`, its position among `voxels`: the voxel below it and how far it lies towards the next.
fn positions(pixels: usize, voxels: usize) -> Vec<(usize, f32)> {
    let position = |pixel: usize| {
        let place = (pixel as f64 + 0.5) * voxels as f64 / pixels as f64 - 0.5;
        let place = place.clamp(0.0, (voxels - 1) as f64);
        (place as usize, place.fract() as f32)
    };
    (0..pixels).map(position).collect()
}

fn draw_ct(image: &mut RgbImage, panel: &Panel, slice: &ArrayRef2<f32>, window: Window) {
    let (rows, columns) = slice.dim();
    let across = positions(panel.width, columns);
    for (y, (row, down)) in positions(panel.height, rows).into_iter().enumerate() {
        let next_row = (row + 1).min(rows - 1);
        for (x, &(column, right)) in across.iter().enumerate() {
            let next_column = (column + 1).min(columns - 1);
            let mix = |row| slice[(row, column)] * (1.0 - right) + slice[(row, next_column)] * right;
            let hounsfield = mix(row) * (1.0 - down) + mix(next_row) * down;
            let black = window.centre - window.width / 2.0;
            let grey = ((hounsfield - black) / window.width).clamp(0.0, 1.0) * 255.0;
            image.blend([panel.left + x, panel.top + y], [grey.round() as u8; 3], 1.0);
        }
    }
}

/// Candidates in the colour of their confidence, half transparent inside a line one pixel wide.
fn draw_map(image: &mut RgbImage, panel: &Panel, slice: &ArrayRef2<f32>) {
    let nearest = |(voxel, fraction): &(usize, f32)| voxel + usize::from(*fraction >= 0.5);
    let (rows, columns) = slice.dim();
    let down: Vec<_> = positions(panel.height, rows).iter().map(nearest).collect();
    let across: Vec<_> = positions(panel.width, columns).iter().map(nearest).collect();
    let map = Array2::from_shape_fn((panel.height, panel.width), |(y, x)| slice[(down[y], across[x])]);
    for ((y, x), &confidence) in map.indexed_iter().filter(|(_, confidence)| **confidence > 0.0) {
        let neighbours =
            [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)].map(|at| map.get(at));
        let on_outline = neighbours.into_iter().flatten().any(|&neighbour| neighbour != confidence);
        let opacity = if on_outline { 1.0 } else { FILL_OPACITY };
        image.blend([panel.left + x, panel.top + y], colour_of(confidence), opacity);
    }
}

fn draw_markers(image: &mut RgbImage, panel: &Panel, [left, right, top, bottom]: [&str; 4]) {
    let wide = text_width(left);
    let inset = 2;
    let [middle_x, middle_y] = [
        panel.left + panel.width.saturating_sub(wide) / 2,
        panel.top + panel.height.saturating_sub(TEXT_HEIGHT) / 2,
    ];
    let [end_x, end_y] = [
        panel.left + panel.width.saturating_sub(wide + inset),
        panel.top + panel.height.saturating_sub(TEXT_HEIGHT + inset),
    ];
    image.write([panel.left + inset, middle_y], left);
    image.write([end_x, middle_y], right);
    image.write([middle_x, panel.top + inset], top);
    image.write([middle_x, end_y], bottom);
}

/// The colour bar from 0 (bottom) to 1 (top), with a black line at `confidence`.
fn draw_colour_bar(image: &mut RgbImage, layout: &Layout, confidence: f32) {
    let left = layout.width - MARGIN - text_width("1") - MARGIN - BAR_WIDTH;
    let last = layout.row_height - 1;
    let mark = ((1.0 - confidence.clamp(0.0, 1.0)) * last as f32).round() as usize;
    for row in 0..=last {
        let value = 1.0 - row as f32 / last as f32;
        let colour = if row == mark && confidence > 0.0 { [0; 3] } else { colour_of(value) };
        for x in 0..BAR_WIDTH {
            image.blend([left + x, MARGIN + row], colour, 1.0);
        }
    }
    let text_left = left + BAR_WIDTH + MARGIN;
    image.write([text_left, MARGIN], "1");
    image.write([text_left, MARGIN + layout.row_height - TEXT_HEIGHT], "0");
}

/// The colour of a confidence, which is clamped to 0–1.
fn colour_of(confidence: f32) -> [u8; 3] {
    let place = confidence.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f32;
    let below = (place as usize).min(COLOURS.len() - 2);
    let fraction = place - below as f32;
    std::array::from_fn(|channel| {
        let [from, to] = [below, below + 1].map(|stop| f32::from(COLOURS[stop][channel]));
        (from + (to - from) * fraction).round() as u8
    })
}

#[cfg(test)]
mod tests;
