//! The figure's size, and that left is left on scans stored in any order.

use super::*;
use ndarray::Array3;

/// Geometries of one patient: axes stored straight, reversed, permuted and oblique.
fn geometries() -> Vec<Geometry> {
    let directions = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]],
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[-0.96, 0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, -1.0]],
    ];
    let shape_spacing = Geometry::axis_aligned([20, 24, 28], [5.0, 3.0, 2.5]);
    directions.map(|direction| Geometry { direction, ..shape_spacing }).to_vec()
}

/// LPS position relative to the volume's centre of each voxel, as a value of `f`.
fn paint(geometry: Geometry, f: impl Fn([f64; 3]) -> f32) -> Volume<f32> {
    let centre = geometry.index_to_physical(geometry.size_xyz().map(|n| (n - 1) as f64 / 2.0));
    let data = Array3::from_shape_fn(geometry.shape, |(z, y, x)| {
        let point = geometry.index_to_physical([x as f64, y as f64, z as f64]);
        f(std::array::from_fn(|a| point[a] - centre[a]))
    });
    Volume::new(data, geometry)
}

fn panels_of(geometry: &Geometry) -> [Panel; 3] {
    Layout::of(geometry, &AnatomicalAxes::of(&geometry.direction)).panels
}

/// Centre of mass of what `weight` sees in a panel: (x, y) from -1 (left, top) to 1 (right, bottom).
fn balance(image: &RgbImage, panel: &Panel, weight: impl Fn([u8; 3]) -> f64) -> [f64; 2] {
    let mut sums = [0.0; 3];
    for (x, y) in (0..panel.height).flat_map(|y| (0..panel.width).map(move |x| (x, y))) {
        let start = 3 * ((panel.top + y) * image.width + panel.left + x);
        let w = weight([image.pixels[start], image.pixels[start + 1], image.pixels[start + 2]]);
        let place = [(x, panel.width), (y, panel.height)].map(|(p, n)| (2 * p + 1) as f64 / n as f64 - 1.0);
        sums = [sums[0] + w * place[0], sums[1] + w * place[1], sums[2] + w];
    }
    assert!(sums[2] > 0.0, "nothing there");
    [sums[0] / sums[2], sums[1] / sums[2]]
}

fn coloured([r, g, b]: [u8; 3]) -> f64 {
    f64::from(u8::from(r != g || g != b))
}

#[test]
fn a_candidate_appears_on_its_side_however_the_scan_is_stored() {
    for geometry in geometries() {
        let ct = paint(geometry, |_| 0.0);
        for corner in (0..8).map(|n| [n & 1, n >> 1 & 1, n >> 2].map(|bit| f64::from(bit) * 2.0 - 1.0)) {
            let [left, back, up] = corner;
            let map = paint(geometry, |p| {
                let inside = (0..3).all(|a| (p[a] - corner[a] * 16.0).abs() < 8.0);
                if inside { 0.8 } else { 0.0 }
            });
            let image = draw_overlay(&ct, &map, Window::default()).unwrap();
            let expected = [[left, back], [left, -up], [back, -up]];
            for (panel, signs) in panels_of(&geometry).iter().zip(expected) {
                let seen = balance(&image, panel, coloured);
                for (place, sign) in seen.iter().zip(signs) {
                    assert!(place * sign > 0.2, "{corner:?} seen at {seen:?} in {panel:?} of {geometry:?}");
                }
            }
        }
    }
}

#[test]
fn the_ct_brightens_in_the_direction_it_should() {
    // Axis of the gradient in LPS, and where the bright side lies in the axial, coronal and sagittal panel.
    let cases = [
        (0, [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]),
        (1, [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
        (2, [[0.0, 0.0], [0.0, -1.0], [0.0, -1.0]]),
    ];
    for geometry in geometries() {
        let empty = paint(geometry, |_| 0.0);
        for (axis, expected) in cases {
            let ct = paint(geometry, |p| p[axis] as f32);
            let image = draw_overlay(&ct, &empty, Window { centre: 0.0, width: 120.0 }).unwrap();
            for (panel, signs) in panels_of(&geometry).iter().zip(expected) {
                let seen = balance(&image, panel, |rgb| f64::from(rgb[0]));
                for (place, sign) in seen.iter().zip(signs).filter(|(_, sign)| *sign != 0.0) {
                    assert!(place * sign > 0.1, "axis {axis}: {seen:?} in {panel:?} of {geometry:?}");
                }
            }
        }
    }
}

#[test]
fn pixels_are_square_and_the_figure_modest() {
    for geometry in geometries() {
        let empty = paint(geometry, |_| 0.0);
        let image = draw_overlay(&empty, &empty, Window::default()).unwrap();
        assert_eq!(image.pixels.len(), 3 * image.width * image.height);
        assert!(image.height >= MIN_ROW_HEIGHT && image.width < 2000);
        let [axial, coronal, sagittal] = panels_of(&geometry);
        assert_eq!(
            [axial.width, coronal.height, axial.height],
            [coronal.width, sagittal.height, sagittal.width]
        );
    }
    let wide = Geometry::axis_aligned([40, 100, 200], [2.0, 1.0, 0.5]);
    let [axial, coronal, _] = panels_of(&wide);
    assert_eq!([axial.width, axial.height, coronal.height], [384, 384, 307]);
}

#[test]
fn extreme_grids_are_drawn_at_a_bounded_size() {
    for (shape, spacing) in [([1, 1, 1], [1.0; 3]), ([1, 512, 1], [500.0, 0.1, 0.1]), ([900, 1, 1], [9.0; 3])]
    {
        let volume = Volume::new(Array3::from_elem(shape, 0.5), Geometry::axis_aligned(shape, spacing));
        let image = draw_overlay(&volume, &volume, Window::default()).unwrap();
        assert!(image.width < 2000 && image.height < 500, "{shape:?}: {} x {}", image.width, image.height);
        assert!(image.encode_png().unwrap().len() < 1_000_000);
    }
}

#[test]
fn the_panels_meet_inside_the_most_confident_candidate() {
    let mut map = Array3::<f32>::zeros((5, 9, 9));
    map.slice_mut(ndarray::s![1, 1..3, 1..3]).fill(0.4);
    // A ring, whose centre of mass lies outside of it.
    map.slice_mut(ndarray::s![3, 2..7, 2..7]).fill(0.9);
    map.slice_mut(ndarray::s![3, 3..6, 3..6]).fill(0.0);
    let (focus, confidence) = find_focus(&map, [1.0; 3]);
    assert_eq!(confidence, 0.9);
    assert_eq!(map[focus], 0.9);
    assert_eq!(find_focus(&Array3::zeros((5, 9, 9)), [1.0; 3]), ([2, 4, 4], 0.0));
}

#[test]
fn colours_grow_lighter_with_confidence() {
    let luminance = |c: f32| {
        let [r, g, b] = colour_of(c).map(f64::from);
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let steps: Vec<_> = (0..=20).map(|n| luminance(n as f32 / 20.0)).collect();
    assert!(steps.windows(2).all(|pair| pair[1] > pair[0]), "{steps:?}");
    assert_eq!([colour_of(-1.0), colour_of(2.0)], [COLOURS[0], COLOURS[3]]);
}

#[test]
fn a_map_on_another_grid_is_refused() {
    let volume = |shape| Volume::new(Array3::zeros(shape), Geometry::axis_aligned(shape, [1.0; 3]));
    let error = draw_overlay(&volume([2, 3, 4]), &volume([2, 3, 5]), Window::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "detection map: expected the CT's shape (z, y, x) = [2, 3, 4], got [2, 3, 5]"
    );
    let nothing = volume([0, 3, 4]);
    assert_eq!(draw_overlay(&nothing, &nothing, Window::default()), Err(OverlayError::Empty([0, 3, 4])));
}
