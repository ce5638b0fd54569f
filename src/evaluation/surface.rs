//! Distances between the surfaces of two masks, weighted by area.
//!
//! Source: DeepMind's surface-distance 0.1, `metrics.py`. A surface element lies wherever eight voxels that meet in a corner are
//! not all alike; marching cubes gives its area. Voxels outside the array count as false, so that masks are closed at its
//! border. Sums, percentiles and tolerances are those of the package, rounding included.

use super::rounding::pairwise_sum;
use super::surfel_table::{NEIGHBOURHOODS, TRIANGLES};
use crate::imaging::distance::distance_to_nearest;
use crate::imaging::{MemoryGauge, NotEnoughMemory, memory};
use ndarray::{Array3, ArrayView3, Zip, s};

/// Bytes that take part at once for a corner of the region at hand: a distance, two codes, a surface.
const BYTES_PER_CORNER: usize = size_of::<f64>() + 3;

/// The elements of one surface with their distances to another surface, ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectedDistances {
    /// Distance of each element's centre to that of the nearest element of the other surface, mm.
    distances: Vec<f64>,
    /// Area of each element, mm².
    areas: Vec<f64>,
}

/// The distances from each of two surfaces to the other.
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceDistances {
    /// From the truth to the prediction.
    pub from_truth: DirectedDistances,
    /// From the prediction to the truth.
    pub from_prediction: DirectedDistances,
}

impl DirectedDistances {
    fn new(surface: &Surface, to_other: &Array3<f64>, area_of: &[f64; 256]) -> Self {
        let corners = surface.codes.iter().zip(to_other).filter(|&(&code, _)| is_surface(code));
        let mut elements: Vec<_> = corners.map(|(&code, &d)| (d, area_of[usize::from(code)])).collect();
        elements.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (distances, areas) = elements.into_iter().unzip();
        Self { distances, areas }
    }

    /// Area of the surface, mm².
    pub fn area(&self) -> f64 {
        pairwise_sum(&self.areas)
    }

    /// Area of the elements no further than `tolerance` mm from the other surface, mm².
    pub fn area_within(&self, tolerance: f64) -> f64 {
        let within = self.distances.partition_point(|&d| d <= tolerance);
        pairwise_sum(&self.areas[..within])
    }

    /// Mean distance, mm.
    pub fn mean(&self) -> f64 {
        let products: Vec<_> = self.distances.iter().zip(&self.areas).map(|(d, a)| d * a).collect();
        pairwise_sum(&products) / self.area()
    }

    /// The distance that this percentage of the area does not exceed, mm.
    pub fn percentile(&self, percent: f64) -> f64 {
        let area = self.area();
        let mut cumulated = 0.0;
        let reached = self.areas.iter().position(|a| {
            cumulated += a;
            cumulated / area >= percent / 100.0
        });
        self.distances[reached.unwrap_or(self.distances.len() - 1)]
    }
}

impl SurfaceDistances {
    /// The distances between the surfaces of two masks of one shape, (z, y, x), `spacing` in mm; `None` if a mask is empty.
    ///
    /// # Errors
    /// If the box around both masks needs more memory than there is.
    ///
    /// # Panics
    /// If the shapes differ, which is a programming error.
    pub fn between(
        truth: &Array3<bool>,
        prediction: &Array3<bool>,
        spacing: [f64; 3],
        memory: MemoryGauge,
    ) -> Result<Option<Self>, NotEnoughMemory> {
        assert_eq!(truth.dim(), prediction.dim(), "masks differ in shape");
        let (Some(box_t), Some(box_p)) = (corners(truth), corners(prediction)) else { return Ok(None) };
        let [[z0, y0, x0], [z1, y1, x1]] = around(box_t, box_p);
        let region = s![z0..=z1, y0..=y1, x0..=x1];
        let asked = memory::bytes(&[z1 - z0 + 2, y1 - y0 + 2, x1 - x0 + 2], BYTES_PER_CORNER);
        memory.check("the distances between the surfaces", asked)?;
        let [truth, prediction] = [truth, prediction].map(|mask| Surface::of(&mask.slice(region)));
        let area_of = areas(spacing);
        let from_truth = DirectedDistances::new(&truth, &prediction.distances(spacing), &area_of);
        let from_prediction = DirectedDistances::new(&prediction, &truth.distances(spacing), &area_of);
        Ok(Some(Self { from_truth, from_prediction }))
    }

    /// Share of both surfaces no further than `tolerance` mm from the other one (`compute_surface_dice_at_tolerance`).
    pub fn dice(&self, tolerance: f64) -> f64 {
        let near = self.from_truth.area_within(tolerance) + self.from_prediction.area_within(tolerance);
        near / (self.from_truth.area() + self.from_prediction.area())
    }

    /// The larger of the two percentiles, mm (`compute_robust_hausdorff`).
    pub fn robust_hausdorff(&self, percent: f64) -> f64 {
        self.from_truth.percentile(percent).max(self.from_prediction.percentile(percent))
    }

    /// Mean of the two mean distances, mm.
    pub fn mean(&self) -> f64 {
        (self.from_truth.mean() + self.from_prediction.mean()) / 2.0
    }
}

/// What meets in each corner of voxels.
struct Surface {
    /// Which of the eight voxels around the corner are true, 128 the first in C order and 1 the last; corner (z, y, x) is the
    /// lower one of voxel (z, y, x), so there is one more than voxels along each axis.
    codes: Array3<u8>,
}

impl Surface {
    fn of(mask: &ArrayView3<'_, bool>) -> Self {
        let (nz, ny, nx) = mask.dim();
        let mut codes = Array3::zeros((nz + 1, ny + 1, nx + 1));
        for bit in 0..8 {
            let [z, y, x] = [2, 1, 0].map(|axis| 1 - (bit >> axis & 1));
            let corners = codes.slice_mut(s![z..z + nz, y..y + ny, x..x + nx]);
            Zip::from(corners).and(mask).par_for_each(|code, &inside| {
                if inside {
                    *code |= 128_u8 >> bit;
                }
            });
        }
        Self { codes }
    }

    /// Distance of every corner from the nearest one on the surface, mm.
    fn distances(&self, spacing: [f64; 3]) -> Array3<f64> {
        distance_to_nearest(&self.codes.mapv(is_surface), spacing)
    }
}

fn is_surface(code: u8) -> bool {
    code != 0 && code != u8::MAX
}

/// Area in mm² of the surface in each neighbourhood (`create_table_neighbour_code_to_surface_area`).
fn areas(spacing: [f64; 3]) -> [f64; 256] {
    let [z, y, x] = spacing;
    let kinds = TRIANGLES.map(|triangle| {
        let [nz, ny, nx] = triangle.map(|eighths| f64::from(eighths) / 8.0);
        let normal = [nz * y * x, ny * z * x, nx * z * y];
        normal.iter().map(|n| n * n).sum::<f64>().sqrt()
    });
    NEIGHBOURHOODS
        .map(|digits| [12, 8, 4, 0].into_iter().map(|shift| kinds[usize::from(digits >> shift & 15)]).sum())
}

/// First and last index (z, y, x) of the true voxels along each axis; `None` if there are none.
fn corners(mask: &Array3<bool>) -> Option<[[usize; 3]; 2]> {
    let mut found: Option<[[usize; 3]; 2]> = None;
    for ((z, y, x), _) in mask.indexed_iter().filter(|&(_, &inside)| inside) {
        let at = [z, y, x];
        found = Some(found.map_or([at; 2], |corners| around(corners, [at; 2])));
    }
    found
}

/// The smallest box around two.
fn around(a: [[usize; 3]; 2], b: [[usize; 3]; 2]) -> [[usize; 3]; 2] {
    let ([a0, a1], [b0, b1]) = (a, b);
    [std::array::from_fn(|i| a0[i].min(b0[i])), std::array::from_fn(|i| a1[i].max(b1[i]))]
}
