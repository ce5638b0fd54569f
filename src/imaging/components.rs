//! Connected components of a 3-D mask, found as runs of voxels joined by union-find.

use ndarray::{Array3, ArrayRef1, ArrayRef3};
use std::ops::Range;

/// Which voxels count as neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// The 6 voxels that share a face.
    Faces,
    /// The 26 voxels that share a face, an edge or a corner.
    Corners,
}

/// Neighbouring voxels of one component in one line along x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Slice of the line.
    pub z: usize,
    /// Row of the line.
    pub y: usize,
    /// First voxel along x.
    pub start: usize,
    /// One past the last voxel along x.
    pub stop: usize,
    /// Label of the component, from 1.
    pub label: u32,
}

/// The connected components of a mask, as runs in raster order.
///
/// Labels go from 1 to [`count`](Self::count) in the raster order (z, then y, then x) of each component's
/// first voxel, the order in which `scipy.ndimage.label` numbers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components {
    /// Shape (z, y, x) of the mask.
    pub shape: [usize; 3],
    /// Every run of every component, in raster order.
    pub runs: Vec<Run>,
    /// Voxels in each component; the component with label `l` is at `l - 1`.
    pub sizes: Vec<usize>,
}

/// A volume of component labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Label of each voxel (z, y, x), 0 outside the mask.
    pub labels: Array3<u32>,
    /// Number of components, which is the largest label.
    pub count: usize,
}

impl Components {
    /// The components of those voxels of `array` (z, y, x) that `is_inside` accepts.
    ///
    /// Linear in the number of voxels, one look at each; memory is proportional to the number of runs.
    pub fn find<T>(array: &ArrayRef3<T>, connectivity: Connectivity, is_inside: impl Fn(&T) -> bool) -> Self {
        let (nz, ny, nx) = array.dim();
        let mut runs = Runs::new(connectivity);
        let mut line_starts = Vec::with_capacity(nz * ny + 1);
        for z in 0..nz {
            for y in 0..ny {
                line_starts.push(runs.runs.len());
                runs.push_line(z, y, &array.slice(ndarray::s![z, y, ..]), &is_inside);
                let this = line_starts[z * ny + y]..runs.runs.len();
                let line = |z: usize, y: usize| line_starts[z * ny + y]..line_starts[z * ny + y + 1];
                if y > 0 {
                    runs.join(&this, &line(z, y - 1));
                }
                if z > 0 {
                    for above in runs.rows_above(y, ny) {
                        runs.join(&this, &line(z - 1, above));
                    }
                }
            }
        }
        runs.into_components([nz, ny, nx])
    }

    /// Number of components, which is the largest label.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// The label of each voxel (z, y, x), 0 outside the mask.
    pub fn to_labels(&self) -> Labels {
        let mut labels = Array3::zeros(self.shape);
        for run in &self.runs {
            labels.slice_mut(ndarray::s![run.z, run.y, run.start..run.stop]).fill(run.label);
        }
        Labels { labels, count: self.count() }
    }
}

/// The labels of a mask's connected components, numbered as `scipy.ndimage.label` does: in the raster order
/// (z, y, x) of each component's first voxel.
pub fn label(mask: &ArrayRef3<bool>, connectivity: Connectivity) -> Labels {
    Components::find(mask, connectivity, |&inside| inside).to_labels()
}

/// Runs found so far, and which of them belong together.
struct Runs {
    connectivity: Connectivity,
    runs: Vec<Run>,
    /// Union-find forest; a parent comes before its children, so that a root is its component's first run.
    parents: Vec<usize>,
}

impl Runs {
    fn new(connectivity: Connectivity) -> Self {
        Self { connectivity, runs: Vec::new(), parents: Vec::new() }
    }

    /// Appends the runs of one line.
    fn push_line<T>(&mut self, z: usize, y: usize, line: &ArrayRef1<T>, is_inside: impl Fn(&T) -> bool) {
        let mut start = None;
        for (x, value) in line.iter().enumerate() {
            match (is_inside(value), start) {
                (true, None) => start = Some(x),
                (false, Some(first)) => {
                    self.push_run(z, y, first, x);
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(first) = start {
            self.push_run(z, y, first, line.len());
        }
    }

    fn push_run(&mut self, z: usize, y: usize, start: usize, stop: usize) {
        self.parents.push(self.runs.len());
        self.runs.push(Run { z, y, start, stop, label: 0 });
    }

    /// Rows of the slice before that touch row `y`.
    fn rows_above(&self, y: usize, rows: usize) -> Range<usize> {
        match self.connectivity {
            Connectivity::Faces => y..y + 1,
            Connectivity::Corners => y.saturating_sub(1)..(y + 2).min(rows),
        }
    }

    /// Unites the runs of two neighbouring lines that touch.
    fn join(&mut self, this: &Range<usize>, other: &Range<usize>) {
        let reach = match self.connectivity {
            Connectivity::Faces => 0,
            Connectivity::Corners => 1,
        };
        let (mut a, mut b) = (this.start, other.start);
        while a < this.end && b < other.end {
            let (run, neighbour) = (self.runs[a], self.runs[b]);
            if run.start < neighbour.stop + reach && neighbour.start < run.stop + reach {
                self.unite(a, b);
            }
            if run.stop < neighbour.stop {
                a += 1;
            } else {
                b += 1;
            }
        }
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }

    /// The root of a run's tree; halves the path on its way.
    fn root(&mut self, mut run: usize) -> usize {
        while self.parents[run] != run {
            self.parents[run] = self.parents[self.parents[run]];
            run = self.parents[run];
        }
        run
    }

    fn into_components(mut self, shape: [usize; 3]) -> Components {
        let mut sizes = Vec::new();
        for index in 0..self.runs.len() {
            let parent = self.parents[index];
            // Parents come first, so a parent's label is already that of its root.
            let label = if parent == index {
                sizes.push(0);
                sizes.len() as u32
            } else {
                self.runs[parent].label
            };
            let run = &mut self.runs[index];
            run.label = label;
            sizes[label as usize - 1] += run.stop - run.start;
        }
        Components { shape, runs: self.runs, sizes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flood fill from every unlabelled voxel in raster order.
    fn label_naively(mask: &Array3<bool>, connectivity: Connectivity) -> Labels {
        let mut labels = Array3::<u32>::zeros(mask.dim());
        let mut count = 0;
        for (seed, _) in mask.indexed_iter().filter(|&(_, &inside)| inside) {
            if labels[seed] != 0 {
                continue;
            }
            count += 1;
            let mut stack = vec![seed];
            while let Some((z, y, x)) = stack.pop() {
                labels[(z, y, x)] = count as u32;
                for (dz, dy, dx) in (0..27).map(|n| (n / 9, n / 3 % 3, n % 3)) {
                    let steps = [dz, dy, dx].iter().filter(|&&d| d != 1).count();
                    let next = ((z + dz).wrapping_sub(1), (y + dy).wrapping_sub(1), (x + dx).wrapping_sub(1));
                    if (connectivity == Connectivity::Corners || steps == 1)
                        && mask.get(next) == Some(&true)
                        && labels[next] == 0
                    {
                        stack.push(next);
                    }
                }
            }
        }
        Labels { labels, count }
    }

    fn any_mask() -> impl Strategy<Value = Array3<bool>> {
        (1_usize..7, 1_usize..7, 1_usize..9, 0.05..0.95).prop_flat_map(|(z, y, x, density)| {
            proptest::collection::vec(proptest::bool::weighted(density), z * y * x)
                .prop_map(move |voxels| Array3::from_shape_vec((z, y, x), voxels).unwrap())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn labels_are_those_of_a_flood_fill(mask in any_mask(), corners: bool) {
            let connectivity = if corners { Connectivity::Corners } else { Connectivity::Faces };
            prop_assert_eq!(label(&mask, connectivity), label_naively(&mask, connectivity));
        }

        #[test]
        fn sizes_are_the_label_counts(mask in any_mask()) {
            let components = Components::find(&mask, Connectivity::Corners, |&inside| inside);
            let labels = components.to_labels().labels;
            for (index, &size) in components.sizes.iter().enumerate() {
                prop_assert_eq!(labels.iter().filter(|&&l| l as usize == index + 1).count(), size);
            }
        }

        #[test]
        fn a_view_in_another_memory_order_gives_the_same_labels(mask in any_mask()) {
            let reversed_axes = mask.view().reversed_axes();
            prop_assert_eq!(
                label(&reversed_axes, Connectivity::Faces),
                label_naively(&reversed_axes.as_standard_layout().to_owned(), Connectivity::Faces)
            );
        }
    }

    #[test]
    fn a_comb_is_one_component_although_its_teeth_meet_last() {
        let mut mask = Array3::from_elem((1, 5, 9), false);
        mask.slice_mut(ndarray::s![0, .., ..;2]).fill(true);
        assert_eq!(label(&mask, Connectivity::Faces).count, 5);
        mask.slice_mut(ndarray::s![0, 4, ..]).fill(true);
        let joined = label(&mask, Connectivity::Faces);
        assert_eq!(joined.count, 1);
        assert_eq!(joined.labels.iter().filter(|&&l| l == 1).count(), 5 * 5 + 4);
    }

    #[test]
    fn an_empty_mask_has_no_component() {
        assert_eq!(label(&Array3::from_elem((3, 4, 5), false), Connectivity::Corners).count, 0);
        assert_eq!(label(&Array3::from_elem((0, 4, 5), true), Connectivity::Corners).count, 0);
    }
}
