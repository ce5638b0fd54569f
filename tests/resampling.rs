//! Resampling against nnU-Net's and ITK's own results (`scripts/reference/make_resampling_vectors.py`) and against a
//! naive version in double precision.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests"
)]

mod resampling_naive;

use half::f16;
use ndarray::{Array3, Array4, ArrayView3, Axis, IxDyn, s};
use pdac_cascade::imaging::resampling::{AxisOperator, apply, apply_owned, itk_resample_to_spacing};
use pdac_cascade::imaging::{Geometry, Volume};
use pdac_cascade::nnunet::resampling::{Resampling, SlabResampler, new_shape, resample_image, separate_axis};
use proptest::prelude::*;
use resampling_naive as naive;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Largest deviation allowed from results that were computed in double precision, for values of order 1 to 10.
const TOLERANCE: f32 = 1e-5;

struct Golden {
    bytes: Vec<u8>,
    index: Value,
}

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resampling/vectors.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let index = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["index"]).unwrap();
        Self { bytes, index }
    }

    fn cases(&self, list: &str) -> &[Value] {
        let cases = self.index[list].as_array().unwrap();
        assert!(!cases.is_empty());
        cases
    }

    fn array(&self, name: &Value) -> (ndarray::ArrayD<f32>, Dtype) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name.as_str().unwrap()).unwrap();
        let values = match tensor.dtype() {
            Dtype::F32 => {
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            Dtype::F16 => tensor
                .data()
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
            other => panic!("{other:?}"),
        };
        (ndarray::ArrayD::from_shape_vec(IxDyn(tensor.shape()), values).unwrap(), tensor.dtype())
    }

    fn array3(&self, name: &Value) -> Array3<f32> {
        self.array(name).0.into_dimensionality().unwrap()
    }

    /// A (channel, z, y, x) array as (z, y, x, channel), and whether it holds half-precision values.
    fn channels_last(&self, name: &Value) -> (Array4<f32>, bool) {
        let (array, dtype) = self.array(name);
        let array: Array4<f32> = array.into_dimensionality().unwrap();
        (array.permuted_axes([1, 2, 3, 0]).as_standard_layout().into_owned(), dtype == Dtype::F16)
    }
}

fn triple<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> [T; 3] {
    std::array::from_fn(|a| read(&value[a]).unwrap())
}

fn spacing(value: &Value) -> [f64; 3] {
    triple(value, Value::as_f64)
}

fn shape(value: &Value) -> [usize; 3] {
    triple(value, |v| v.as_u64().map(|n| n as usize))
}

fn resampling_of(case: &Value) -> Resampling {
    let force_separate_z = case["force_separate_z"].as_bool();
    match case["function"].as_str().unwrap() {
        "default" => {
            Resampling::from_orders(case["order"].as_u64().unwrap() as u8, 0, force_separate_z).unwrap()
        }
        "torch" => Resampling::Torch { force_separate_z },
        other => panic!("{other}"),
    }
}

fn largest_difference<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f32 {
    a.into_iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn images_come_out_as_nnunet_resamples_them() {
    let golden = Golden::load();
    let mut compared = 0;
    for case in golden.cases("resample") {
        let (input, is_half) = golden.channels_last(&case["input"]);
        if is_half {
            continue;
        }
        let (expected, _) = golden.channels_last(&case["output"]);
        let image = input.index_axis_move(Axis(3), 0);
        let (current, new) = (spacing(&case["current_spacing"]), spacing(&case["new_spacing"]));
        let got = resample_image(image, shape(&case["new_shape"]), current, new, &resampling_of(case));
        let expected = expected.index_axis_move(Axis(3), 0);
        assert_eq!(got.dim(), expected.dim(), "{}", case["output"]);
        let difference = largest_difference(&got, &expected);
        assert!(difference <= TOLERANCE, "{}: {difference}", case["output"]);
        compared += 1;
    }
    assert!(compared >= 80, "{compared}");
}

#[test]
fn logits_come_out_as_nnunet_resamples_them() {
    let golden = Golden::load();
    let (mut values, mut differing) = (0, 0);
    for case in golden.cases("resample") {
        let (logits, is_half) = golden.channels_last(&case["input"]);
        let (expected, _) = golden.channels_last(&case["output"]);
        let (current, new) = (spacing(&case["current_spacing"]), spacing(&case["new_spacing"]));
        let shape = shape(&case["new_shape"]);
        let resampler = SlabResampler::new(logits.view(), shape, current, new, &resampling_of(case));
        let resampler = resampler.round_to_half(is_half);
        assert_eq!(resampler.output_shape(), shape);
        for z in (0..shape[0]).step_by(3) {
            let z = z..(z + 3).min(shape[0]);
            let got = resampler.slab(z.clone());
            let expected = expected.slice(s![z, .., .., ..]);
            assert_eq!(got.shape(), expected.shape(), "{}", case["output"]);
            if is_half {
                // nnU-Net rounds its double to half, we our single. These small grids give weights like 1/2 and 1/4,
                // so ties between two halves are common, and the last bit of a double decides them.
                for (a, b) in got.iter().zip(&expected) {
                    assert!(
                        (a - b).abs() <= (b.abs() / 1024.0).max(6e-8),
                        "{}: {a}, not {b}",
                        case["output"]
                    );
                    values += 1;
                    differing += usize::from(a != b);
                }
            } else {
                let difference = largest_difference(&got, expected);
                assert!(difference <= TOLERANCE, "{}: {difference}", case["output"]);
            }
        }
    }
    assert!(values > 10_000 && differing * 250 < values, "{differing} of {values} halves differ");
}

#[test]
fn shapes_and_axes_are_those_of_nnunet() {
    let golden = Golden::load();
    for case in golden.cases("new_shape") {
        let got = new_shape(shape(&case[0]), spacing(&case[1]), spacing(&case[2]));
        assert_eq!(got, shape(&case[3]), "{case}");
    }
    for case in golden.cases("separate_axis") {
        let got = separate_axis(case[0].as_bool(), spacing(&case[1]), spacing(&case[2]));
        assert_eq!(got, case[3].as_u64().map(|a| a as usize), "{case}");
    }
}

/// Intensities reach 2000 here; ITK interpolates in double precision and rounds to single.
#[test]
fn volumes_come_out_as_itk_resamples_them() {
    let golden = Golden::load();
    let mut outside = 0;
    for case in golden.cases("itk") {
        let input = golden.array3(&case["input"]);
        let expected = golden.array3(&case["output"]);
        let geometry = Geometry {
            spacing: spacing(&case["spacing"]),
            origin: [-5.0, 6.0, 7.5],
            ..Geometry::axis_aligned(input.dim().into(), [1.0; 3])
        };
        let largest = input.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let got = itk_resample_to_spacing(&Volume::new(input, geometry), spacing(&case["new_spacing"]), 8.0)
            .unwrap();
        assert_eq!(got.data.dim(), expected.dim(), "{}", case["output"]);
        assert_eq!(
            (got.geometry.spacing, got.geometry.origin),
            (spacing(&case["new_spacing"]), geometry.origin)
        );
        let difference = largest_difference(&got.data, &expected);
        assert!(difference <= 1e-6 * largest, "{}: {difference} of {largest}", case["output"]);
        outside += got.data.iter().zip(&expected).filter(|&(&a, &b)| a == 8.0 && b == 8.0).count();
    }
    assert!(outside > 100, "{outside} voxels outside");
}

/// Deterministic noise of order 1 to 10.
fn noise(shape: impl ndarray::IntoDimension<Dim = ndarray::Ix4>, seed: u64) -> Array4<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array4::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 10.0
    })
}

fn image(shape: [usize; 3], seed: u64) -> Array3<f32> {
    noise((shape[0], shape[1], shape[2], 1), seed).index_axis_move(Axis(3), 0)
}

type Naive = fn(&[f64], usize) -> Vec<f64>;
type Constructor = fn(usize, usize) -> AxisOperator;
const PAIRS: [(Constructor, Naive); 4] = [
    (AxisOperator::nearest, naive::nearest),
    (AxisOperator::linear, naive::linear),
    (AxisOperator::cubic, naive::cubic),
    (|n, m| AxisOperator::itk_bspline(n, m, n as f64 / m as f64), naive::itk_bspline),
];

/// `operator` along `axis` and nothing along the others.
fn along(axis: usize, operator: AxisOperator, shape: [usize; 3]) -> [AxisOperator; 3] {
    let mut operators = shape.map(AxisOperator::identity);
    operators[axis] = operator;
    operators
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn operators_are_the_naive_recursion(
        kind in 0..4_usize,
        axis in 0..3_usize,
        lengths in (1..40_usize, 1..70_usize),
        others in (1..20_usize, 1..20_usize),
        seed: u64,
    ) {
        let (n, m) = lengths;
        let mut shape = [others.0, others.1, others.1];
        shape[axis] = n;
        let data = image(shape, seed);
        let got = apply(data.view(), &along(axis, PAIRS[kind].0(n, m), shape));
        prop_assert_eq!(got.shape()[axis], m);
        for (line, resampled) in data.lanes(Axis(axis)).into_iter().zip(got.lanes(Axis(axis))) {
            let line: Vec<f64> = line.iter().map(|&v| f64::from(v)).collect();
            for (o, (a, b)) in resampled.iter().zip(PAIRS[kind].1(&line, m)).enumerate() {
                prop_assert!((f64::from(*a) - b).abs() <= 4e-6, "{n} -> {m}, sample {o}: {a}, not {b}");
            }
        }
    }

    #[test]
    fn slabs_are_slices_of_the_whole(
        old in (1..9_usize, 1..20_usize, 1..20_usize),
        new in (1..12_usize, 1..45_usize, 1..24_usize),
        channels in 1..11_usize,
        kind in 0..4_usize,
        separate in 0..4_usize,
        seed: u64,
    ) {
        let logits = noise((old.0, old.1, old.2, channels), seed);
        let new = [new.0, new.1, new.2];
        let mut spacing = [1.0; 3];
        if let Some(s) = spacing.get_mut(separate) {
            *s = 5.0;
        }
        let resampling = match kind {
            0 => Resampling::Torch { force_separate_z: None },
            order => Resampling::from_orders([0, 1, 3][order - 1], 0, None).unwrap(),
        };
        let resampler = SlabResampler::new(logits.view(), new, spacing, [1.0; 3], &resampling);
        let split = new[0] / 2;
        let slabs = ndarray::concatenate![Axis(0), resampler.slab(0..split), resampler.slab(split..new[0])];
        for (channel, got) in logits.axis_iter(Axis(3)).zip(slabs.axis_iter(Axis(3))) {
            let whole = resample_image(channel.to_owned(), new, spacing, [1.0; 3], &resampling);
            prop_assert_eq!(whole.dim(), got.dim());
            prop_assert!(largest_difference(&whole, got) <= TOLERANCE);
        }
    }

    #[test]
    fn cubic_results_stay_in_the_range_of_their_slice(axis in 0..3_usize, seed: u64) {
        let data = image([6, 7, 8], seed);
        let mut spacing = [1.0; 3];
        spacing[axis] = 9.0;
        let cubic = Resampling::from_orders(3, 0, None).unwrap();
        let got = resample_image(data.clone(), [13, 15, 17], spacing, [1.0; 3], &cubic);
        let nearest = AxisOperator::nearest(data.shape()[axis], got.shape()[axis]);
        for (o, slice) in got.axis_iter(Axis(axis)).enumerate() {
            let source = data.index_axis(Axis(axis), nearest.source(o));
            let (low, high) = source.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            prop_assert!(slice.iter().all(|v| (low..=high).contains(v)));
        }
    }
}

#[test]
fn three_axes_are_three_times_one_axis() {
    let data = image([9, 21, 33], 5);
    let got = apply(
        data.view(),
        &[AxisOperator::cubic(9, 14), AxisOperator::linear(21, 20), AxisOperator::cubic(33, 19)],
    );
    let mut expected = data.mapv(f64::from);
    for (axis, (resample, n)) in
        [(naive::cubic as Naive, 14), (naive::linear, 20), (naive::cubic, 19)].into_iter().enumerate()
    {
        expected = naive::along_axis(&expected, axis, n, resample);
    }
    assert_eq!(got.dim(), expected.dim());
    assert!(got.iter().zip(&expected).all(|(&a, &b)| (f64::from(a) - b).abs() < 1e-5));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let data = image([19, 150, 41], 3);
    let logits = noise((5, 40, 20, 3), 4);
    let cubic = Resampling::from_orders(3, 0, None).unwrap();
    let linear = Resampling::from_orders(1, 0, None).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let whole = resample_image(data.clone(), [30, 99, 57], [1.0; 3], [1.0; 3], &cubic);
            let slabs = [cubic, linear].map(|r| {
                SlabResampler::new(logits.view(), [12, 90, 31], [1.0; 3], [1.0; 3], &r)
                    .round_to_half(true)
                    .slab(2..9)
            });
            let bits = |v: &f32| v.to_bits();
            (whole.mapv(|v| bits(&v)), slabs.map(|s| s.mapv(|v| bits(&v))))
        })
    };
    let alone = run(1);
    assert!(alone == run(2) && alone == run(3));
}

#[test]
fn any_memory_layout_is_accepted() {
    let data = image([6, 7, 8], 9);
    let operators = [AxisOperator::cubic(8, 5), AxisOperator::linear(7, 9), AxisOperator::nearest(6, 11)];
    let turned: ArrayView3<'_, f32> = data.view().reversed_axes();
    let expected = apply(turned.as_standard_layout().view(), &operators);
    assert_eq!(apply(turned, &operators), expected);
    assert_eq!(apply_owned(data.clone().reversed_axes(), &operators), expected);

    let larger = image([9, 7, 8], 9);
    let operators = [AxisOperator::linear(4, 6), AxisOperator::cubic(7, 5), AxisOperator::identity(8)];
    let expected = apply(larger.slice(s![3..7, .., ..]), &operators);
    assert_eq!(apply_owned(larger.slice_move(s![3..7, .., ..]), &operators), expected);

    let logits = noise((3, 4, 5, 2), 1);
    let linear = Resampling::from_orders(1, 0, None).unwrap();
    let planar = logits.view().permuted_axes([3, 0, 1, 2]).as_standard_layout().into_owned();
    let strided = planar.view().permuted_axes([1, 2, 3, 0]);
    let slab = |l| SlabResampler::new(l, [4, 6, 6], [1.0; 3], [1.0; 3], &linear).slab(1..4);
    assert_eq!(slab(strided), slab(logits.view()));
}

#[test]
fn unchanged_logits_come_out_as_they_are() {
    let logits = noise((3, 4, 5, 2), 8);
    let cubic = Resampling::from_orders(3, 0, None).unwrap();
    let resampler = SlabResampler::new(logits.view(), [3, 4, 5], [9.0, 1.0, 1.0], [1.0; 3], &cubic);
    assert_eq!(resampler.slab(0..3), logits);
}

/// `cargo test --release --test resampling -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
fn how_long_it_takes() {
    let clock = |what: &str, work: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        work();
        eprintln!("{what}: {:.3} s", start.elapsed().as_secs_f64());
    };
    let data = image([200, 512, 512], 1);
    let cubic = Resampling::from_orders(3, 0, None).unwrap();
    let linear = Resampling::from_orders(1, 0, None).unwrap();
    for (name, resampling) in [("cubic", &cubic), ("linear", &linear)] {
        let input = data.clone();
        let mut work = Some(input);
        clock(&format!("{name} 200x512x512 -> 167x400x400"), &mut || {
            let input = work.take().unwrap();
            std::hint::black_box(resample_image(input, [167, 400, 400], [1.0; 3], [1.0; 3], resampling));
        });
    }
    let volume = Volume::new(data, Geometry::axis_aligned([200, 512, 512], [2.5, 0.8, 0.8]));
    clock("itk_resample_to_spacing 200x512x512 -> 56x91x91", &mut || {
        std::hint::black_box(itk_resample_to_spacing(&volume, [9.0, 4.5, 4.5], 8.0).unwrap());
    });
    let logits = noise((100, 200, 200, 6), 2);
    let resampler =
        SlabResampler::new(logits.view(), [200, 320, 320], [1.0; 3], [1.0; 3], &linear).round_to_half(true);
    clock("logits 100x200x200x6 -> 200x320x320, in slabs of 16", &mut || {
        for z in (0..200).step_by(16) {
            std::hint::black_box(resampler.slab(z..(z + 16).min(200)));
        }
    });
}
