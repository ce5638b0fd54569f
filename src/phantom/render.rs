//! From structures to voxels, slice by slice.
//!
//! A slice is the mean of a few planes through its thickness. In a plane the structures are painted one over the other,
//! with soft edges, block by block: the distance at a block's centre tells whether a surface passes through it at all.

use super::layer::{Structure, label};
use super::noise::{Noise, NoiseSlice};
use super::point::{Bounds, Point, length, mix, sub};
use super::texture::Marble;
use super::warp::Warp;
use crate::imaging::{Geometry, Volume};
use ndarray::Array3;
use rayon::prelude::*;

/// Side of a block in mm, about.
const BLOCK: f64 = 5.0;
/// Largest side of a block in pixels.
const MOST: usize = 8;
const AIR: f32 = -1000.0;
/// Range of the scanner's HU.
const RANGE: [f32; 2] = [-1024.0, 3071.0];

/// What is to be rendered.
pub struct Scene {
    /// Structures, the later ones over the earlier.
    pub structures: Vec<Structure>,
    /// Texture of the tissues.
    pub marble: Marble,
    /// Where the anatomy lies.
    pub warp: Warp,
    /// Deviation of the noise in the body, HU.
    pub noise_hu: f32,
    /// Seed of the noise.
    pub noise_seed: u64,
    /// Thickness of a slice, mm.
    pub thickness: f64,
}

impl Scene {
    /// CT in HU and labels on a grid along the patient's axes.
    pub fn render(&self, geometry: &Geometry) -> (Volume<i16>, Volume<u8>) {
        let mut image = Array3::<i16>::zeros(geometry.shape);
        let mut labels = Array3::<u8>::zeros(geometry.shape);
        let [_, height, width] = geometry.shape;
        let slice = (height * width).max(1);
        let noise = Noise::new(self.noise_seed, [geometry.spacing[2], geometry.spacing[1]]);
        let slices = image.as_slice_mut().unwrap_or_default().par_chunks_mut(slice);
        slices
            .zip(labels.as_slice_mut().unwrap_or_default().par_chunks_mut(slice))
            .enumerate()
            .for_each_init(
                || Canvas::new(geometry),
                |canvas, (z, (image, labels))| {
                    self.render_slice(canvas, geometry, z, labels);
                    self.expose(canvas, &noise, z, image);
                },
            );
        (Volume::new(image, *geometry), Volume::new(labels, *geometry))
    }

    /// Sums the planes of a slice up and lets them vote for labels.
    fn render_slice(&self, canvas: &mut Canvas, geometry: &Geometry, z: usize, labels: &mut [u8]) {
        let planes = ((self.thickness / PLANE).ceil() as usize).clamp(1, MOST_PLANES);
        canvas.sum.fill(0.0);
        canvas.votes.fill(0);
        let middle = geometry.origin[2] + geometry.spacing[0] * z as f64;
        for plane in 0..planes {
            let part = (plane as f64 + 0.5) / planes as f64 - 0.5;
            canvas.place(geometry, middle + part * self.thickness, &self.warp);
            for structure in &self.structures {
                canvas.paint(structure, &self.marble);
            }
            canvas.count();
        }
        canvas.sum.iter_mut().for_each(|v| *v /= planes as f32);
        for (label, &votes) in labels.iter_mut().zip(&canvas.votes) {
            *label = winner(votes);
        }
    }

    /// Adds noise and rounds.
    fn expose(&self, canvas: &mut Canvas, noise: &Noise, z: usize, image: &mut [i16]) {
        let noise = noise.fill(&mut canvas.noise, canvas.size, z);
        for (((voxel, &hu), &noise), p) in image.iter_mut().zip(&canvas.sum).zip(noise).zip(&canvas.points) {
            let square = p[0] * p[0] + p[1] * p[1];
            let inside = 0.75 + 0.4 / (1.0 + square / 8000.0);
            let share = if hu < -960.0 { 0.6 } else { inside };
            let hu = hu + self.noise_hu * share * noise;
            *voxel = hu.round().clamp(RANGE[0], RANGE[1]) as i16;
        }
    }
}

/// Largest distance of planes in mm.
const PLANE: f64 = 1.3;
/// More planes than this would overflow the votes.
const MOST_PLANES: usize = 15;
/// Bits that count the votes for one label.
const VOTE_BITS: usize = 4;

/// The label with most votes; among equals the one that is hardest to see.
fn winner(votes: u32) -> u8 {
    use label::{ARTERY, BACKGROUND, BILE_DUCT, DUCT, LESION, PARENCHYMA, VEIN};
    let order = [LESION, DUCT, BILE_DUCT, VEIN, ARTERY, PARENCHYMA, BACKGROUND];
    let count = |label: u8| votes >> (VOTE_BITS * label as usize) & ((1 << VOTE_BITS) - 1);
    order.into_iter().fold(LESION, |best, label| if count(label) > count(best) { label } else { best })
}

/// A rectangle of pixels that is painted or left out as a whole where no surface is near.
struct Block {
    x: [usize; 2],
    y: [usize; 2],
    centre: Point,
    radius: f32,
}

/// The plane that is being painted and the slice that is being summed up.
struct Canvas {
    /// Pixels (x, y).
    size: [usize; 2],
    points: Vec<Point>,
    hu: Vec<f32>,
    labels: Vec<u8>,
    blocks: Vec<Block>,
    bounds: Bounds,
    sum: Vec<f32>,
    votes: Vec<u32>,
    noise: NoiseSlice,
}

/// Edges of pieces of about `step` that cover `0..size`.
fn pieces(size: usize, step: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..size).step_by(step).map(move |from| [from, (from + step).min(size)])
}

impl Canvas {
    fn new(geometry: &Geometry) -> Self {
        let [_, height, width] = geometry.shape;
        let pixels = width * height;
        let [step_y, step_x] =
            [geometry.spacing[1], geometry.spacing[2]].map(|s| ((BLOCK / s) as usize).clamp(1, MOST));
        let blocks = pieces(height, step_y)
            .flat_map(|y| pieces(width, step_x).map(move |x| Block { x, y, centre: [0.0; 3], radius: 0.0 }));
        Self {
            size: [width, height],
            points: vec![[0.0; 3]; pixels],
            hu: vec![0.0; pixels],
            labels: vec![0; pixels],
            blocks: blocks.collect(),
            bounds: Bounds::of([]),
            sum: vec![0.0; pixels],
            votes: vec![0; pixels],
            noise: NoiseSlice::default(),
        }
    }

    /// Begins the plane at a height: nothing but air, every pixel with its point in the atlas.
    fn place(&mut self, geometry: &Geometry, z: f64, warp: &Warp) {
        self.hu.fill(AIR);
        self.labels.fill(label::BACKGROUND);
        let at = |x: f64, y: f64| {
            let x = geometry.origin[0] + geometry.spacing[2] * x;
            let y = geometry.origin[1] + geometry.spacing[1] * y;
            warp.to_atlas([x as f32, y as f32, z as f32])
        };
        let width = self.size[0];
        for block in &mut self.blocks {
            let ([x0, x1], [y0, y1]) = (block.x.map(|v| v as f64), block.y.map(|v| v as f64));
            let corners = [at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1)];
            let (per_x, per_y) = (1.0 / (x1 - x0) as f32, 1.0 / (y1 - y0) as f32);
            for y in block.y[0]..block.y[1] {
                let down = (y - block.y[0]) as f32 * per_y;
                let [left, right]: [Point; 2] = [0, 1]
                    .map(|side| std::array::from_fn(|a| mix(corners[side][a], corners[side + 2][a], down)));
                for x in block.x[0]..block.x[1] {
                    let across = (x - block.x[0]) as f32 * per_x;
                    self.points[y * width + x] = std::array::from_fn(|a| mix(left[a], right[a], across));
                }
            }
            block.centre = std::array::from_fn(|a| corners.iter().map(|c| c[a]).sum::<f32>() / 4.0);
            block.radius = corners.iter().map(|&c| length(sub(c, block.centre))).fold(0.0, f32::max);
        }
        let radius = self.blocks.iter().map(|b| b.radius).fold(0.0, f32::max);
        self.bounds = Bounds::of(self.blocks.iter().map(|b| b.centre)).grown(radius);
    }

    /// Paints a structure over what is there.
    fn paint(&mut self, structure: &Structure, marble: &Marble) {
        if !structure.bounds.touches(&self.bounds) {
            return;
        }
        let width = self.size[0];
        for block in self.blocks.iter().filter(|b| structure.bounds.is_within(b.centre, b.radius)) {
            let Some(task) = structure.task(block.centre, block.radius) else { continue };
            for y in block.y[0]..block.y[1] {
                let row = y * width + block.x[0]..y * width + block.x[1];
                let pixels = self.points[row.clone()].iter().zip(&mut self.hu[row.clone()]);
                for ((&p, hu), label) in pixels.zip(&mut self.labels[row]) {
                    structure.paint(&task, p, marble, hu, label);
                }
            }
        }
    }

    /// Adds the plane to the slice.
    fn count(&mut self) {
        self.sum.iter_mut().zip(&self.hu).for_each(|(sum, hu)| *sum += hu);
        for (votes, &label) in self.votes.iter_mut().zip(&self.labels) {
            *votes += 1 << (VOTE_BITS * usize::from(label));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantom::{LesionKind, Phantom, Request};

    /// Every pixel a block of its own.
    fn divide(canvas: &mut Canvas) {
        let width = canvas.size[0];
        let single = |(index, &centre): (usize, &Point)| {
            let (x, y) = (index % width, index / width);
            Block { x: [x, x + 1], y: [y, y + 1], centre, radius: 0.0 }
        };
        canvas.blocks = canvas.points.iter().enumerate().map(single).collect();
    }

    #[test]
    fn blocks_leave_nothing_out() {
        for seed in 0..6 {
            let lesion = Some(LesionKind::Any);
            let request = Request { seed, lesion, size: Some([400, 400, 5]), spacing: None };
            let Phantom { scene, geometry, .. } = Phantom::new(request).unwrap();
            for slice in 0..5 {
                let z = geometry.origin[2] + geometry.spacing[0] * f64::from(slice);
                let [blocks, pixels] = [false, true].map(|divided| {
                    let mut canvas = Canvas::new(&geometry);
                    canvas.place(&geometry, z, &scene.warp);
                    if divided {
                        divide(&mut canvas);
                    }
                    scene.structures.iter().for_each(|structure| canvas.paint(structure, &scene.marble));
                    canvas
                });
                let different = |(a, b): (&f32, &f32)| (a - b).abs() > 0.01;
                let wrong = blocks.hu.iter().zip(&pixels.hu).filter(|&pair| different(pair)).count();
                assert_eq!(wrong, 0, "pixels of slice {slice} of seed {seed}");
                assert_eq!(blocks.labels, pixels.labels);
            }
        }
    }

    #[test]
    fn most_votes_win_and_among_equals_the_smaller_structure() {
        let votes = |labels: &[u8]| labels.iter().map(|&l| 1_u32 << (VOTE_BITS * usize::from(l))).sum();
        assert_eq!(winner(votes(&[0, 0, 4])), label::BACKGROUND);
        assert_eq!(winner(votes(&[0, 4])), label::PARENCHYMA);
        assert_eq!(winner(votes(&[4, 5, 6, 1])), label::LESION);
        assert_eq!(winner(votes(&[0; MOST_PLANES])), label::BACKGROUND);
    }
}
