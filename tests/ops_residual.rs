//! The operators of residual blocks, average pooling and the sum, against naive ones.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

mod stored_values;

use pdac_cascade::ops::{Arithmetic, AveragePool, Operand, Operator, ResidualAdd, ValueShape};
use proptest::prelude::*;
use stored_values::{computed, noise, value};

/// Means over windows of (D, H, W, C) values.
fn naive_pool(seen: &[f32], ValueShape { dims, channels }: ValueShape, stride: [usize; 3]) -> Vec<f64> {
    let [out_d, out_h, out_w]: [usize; 3] = std::array::from_fn(|a| dims[a] / stride[a]);
    let [sz, sy, sx] = stride;
    let mut out = Vec::new();
    for i in 0..out_d * out_h * out_w * channels {
        let (voxel, c) = (i / channels, i % channels);
        let (z, y, x) = (voxel / out_w / out_h * sz, voxel / out_w % out_h * sy, voxel % out_w * sx);
        let window = (0..sz * sy * sx).map(|t| (z + t / sx / sy, y + t / sx % sy, x + t % sx));
        let sum: f64 =
            window.map(|(z, y, x)| f64::from(seen[((z * dims[1] + y) * dims[2] + x) * channels + c])).sum();
        out.push(sum / (sz * sy * sx) as f64);
    }
    out
}

/// Checks a stored value: scale 1, shift 0, and these raw values.
fn check_stored(what: &str, got: &[f32], channels: usize, expected: &[f64]) {
    assert!(got[..channels].iter().all(|&s| s == 1.0), "{what}: scales {:?}", &got[..channels]);
    assert!(got[channels..2 * channels].iter().all(|&s| s == 0.0), "{what}: shifts");
    assert_eq!(got.len() - 2 * channels, expected.len(), "{what}");
    for (i, (g, e)) in got[2 * channels..].iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() < 1e-5, "{what}: element {i} is {g}, expected {e}");
    }
}

fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), Just(3), Just(8), Just(17), Just(40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pooling_equals_the_naive_one(
        stride in (1usize..4, 1usize..4, 1usize..4),
        windows in (1usize..4, 1usize..5, 1usize..12),
        rest in (0usize..3, 0usize..3, 0usize..3),
        channels in channels(),
        seed in 1u64..1000,
    ) {
        let (stride, windows, rest): ([usize; 3], [usize; 3], [usize; 3]) =
            (stride.into(), windows.into(), rest.into());
        let dims = std::array::from_fn(|a| windows[a] * stride[a] + rest[a] % stride[a]);
        let operand = Operand { shape: ValueShape { dims, channels }, negative_slope: 0.1 };
        let (stored, seen) = value(operand, seed);
        let expected = naive_pool(&seen, operand.shape, stride);
        let out = ValueShape { dims: AveragePool::out_dims(dims, stride), channels };
        prop_assert_eq!(out.dims, windows);
        for arithmetic in Arithmetic::available() {
            let pool = AveragePool::new(operand, stride, arithmetic).unwrap();
            let got = computed(&pool, &[&stored], noise(9, out.storage_len()));
            check_stored(&format!("{arithmetic}"), &got, channels, &expected);
        }
    }

    #[test]
    fn sums_of_two_differently_read_values_equal_the_naive_ones(
        dims in (1usize..5, 1usize..9, 1usize..33),
        channels in channels(),
        slopes in (0f32..1.0, 0f32..1.0, 0f32..1.0),
        seed in 1u64..1000,
    ) {
        let shape = ValueShape { dims: dims.into(), channels };
        let inputs = [slopes.0, slopes.1].map(|negative_slope| Operand { shape, negative_slope });
        let [(a, seen_a), (b, seen_b)] = [0, 1].map(|i| value(inputs[i], seed + i as u64));
        let activated = |v: f64| if v >= 0.0 { v } else { v * f64::from(slopes.2) };
        let expected: Vec<f64> =
            seen_a.iter().zip(&seen_b).map(|(a, b)| activated(f64::from(*a) + f64::from(*b))).collect();
        for arithmetic in Arithmetic::available() {
            let add = ResidualAdd::new(inputs, slopes.2, arithmetic).unwrap();
            let got = computed(&add, &[&a, &b], noise(9, shape.storage_len()));
            check_stored(&format!("{arithmetic}"), &got, channels, &expected);
            let in_place = computed(&add, &[&b], a.to_vec1().unwrap());
            prop_assert!(in_place == got, "in place the sums are the same bits");
        }
    }
}

#[test]
fn results_are_the_same_bits_at_any_number_of_threads() {
    let operand = Operand { shape: ValueShape { dims: [9, 26, 31], channels: 12 }, negative_slope: 0.01 };
    let (stored, _) = value(operand, 3);
    let pool = AveragePool::new(operand, [1, 2, 3], Arithmetic::detect()).unwrap();
    let out = ValueShape { dims: [9, 13, 10], channels: 12 };
    let run = |threads| {
        let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        workers.install(|| computed(&pool, &[&stored], vec![0.0; out.storage_len()]))
    };
    let one = run(1);
    assert!(one.iter().skip(24).any(|&v| v != 0.0));
    assert!(one == run(2) && one == run(5));
}

#[test]
fn windows_that_do_not_fit_and_other_numbers_of_sources_are_refused() {
    let operand = Operand { shape: ValueShape { dims: [1, 4, 4], channels: 1 }, negative_slope: 1.0 };
    for stride in [[2, 2, 2], [1, 0, 1]] {
        let error = AveragePool::new(operand, stride, Arithmetic::detect()).err().unwrap().to_string();
        let expected =
            format!("average_pool: windows of {stride:?} voxels do not fit into a grid of [1, 4, 4]");
        assert!(error.contains(&expected), "{error}");
    }
    let pool = AveragePool::new(operand, [1, 2, 2], Arithmetic::detect()).unwrap();
    let (source, mut output) = ([0.0; 18], [0.0; 6]);
    for (sources, expected) in [
        (&[][..], "average_pool: 0 sources, expected one"),
        (&[&source[..], &source[..]][..], "average_pool: 2 sources, expected one"),
        (&[&source[..17]][..], "average_pool: input buffer holds 17 floats"),
    ] {
        let error = pool.run(&mut output, sources).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
    let error = pool.run(&mut output[..5], &[&source]).unwrap_err().to_string();
    assert!(error.contains("average_pool: output buffer holds 5 floats"), "{error}");
}
