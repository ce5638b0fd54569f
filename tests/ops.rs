//! Every convolution kernel and instruction set against a naive one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "amx_emulation/emulator/mod.rs"]
mod amx_emulator;
mod stored_values;

use candle_core::{DType, Device, Tensor};
use pdac_cascade::ops::{
    AccumulateTile, AddLogits, Arithmetic, Conv3d, ConvShape, DiscardFront, GatherTile, InstanceNorm, Isa,
    Operand, Operator, Precision, ResidualAdd, SegmentationHead, TransposedConv3d, ValueShape, Within,
};
use proptest::prelude::*;
use std::ops::Range;
use stored_values::{computed, noise, value};

/// Everything that can be run here, AMX emulated if need be.
fn arithmetics() -> Vec<Arithmetic> {
    amx_emulator::provide();
    let bf16 = Arithmetic::new(Some(Isa::Amx), Precision::Bf16).ok();
    bf16.into_iter().chain(Arithmetic::available()).collect()
}

/// How far a sum of `terms` products of numbers of order 1 may be off, and a norm's scale or shift relative to it.
fn tolerances(arithmetic: Arithmetic, terms: usize) -> (f64, f64) {
    let terms = terms as f64;
    match (arithmetic.isa(), arithmetic.precision()) {
        (Isa::Amx, Precision::Bf16) => (0.02 * terms.sqrt(), 0.3),
        (Isa::Amx, Precision::F32) => (1e-4 * terms.sqrt(), 2e-3),
        _ => (1e-6 * terms + 1e-5, 2e-3),
    }
}

struct Case {
    dims: [usize; 3],
    inputs: Vec<usize>,
    shape: ConvShape,
    seed: u64,
}

/// Ten lines of truth: (D, H, W, C) in, (D, H, W, out) out, in f64.
fn naive_conv(case: &Case, inputs: &[Vec<f32>], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let ([d, h, w], k, s) = (case.dims, case.shape.kernel, case.shape.stride);
    let [od, oh, ow] = case.shape.out_dims(case.dims);
    let total: usize = case.inputs.iter().sum();
    let mut out = Vec::new();
    for (z, y, x, o) in itertools4(od, oh, ow, case.shape.out_channels) {
        let mut sum = f64::from(bias[o]);
        for (kz, ky, kx, c) in itertools4(k[0], k[1], k[2], total) {
            let at = |p: usize, s: usize, t: usize, k: usize, n: usize| {
                (p * s + t).checked_sub(k / 2).filter(|&i| i < n)
            };
            let (Some(iz), Some(iy), Some(ix)) =
                (at(z, s[0], kz, k[0], d), at(y, s[1], ky, k[1], h), at(x, s[2], kx, k[2], w))
            else {
                continue;
            };
            let (source, c0) = if c < case.inputs[0] { (0, c) } else { (1, c - case.inputs[0]) };
            let v = inputs[source][((iz * h + iy) * w + ix) * case.inputs[source] + c0];
            let t = weight[(((o * total + c) * k[0] + kz) * k[1] + ky) * k[2] + kx];
            sum += f64::from(v) * f64::from(t);
        }
        out.push(sum);
    }
    out
}

fn itertools4(a: usize, b: usize, c: usize, d: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / d / c / b, i / d / c % b, i / d % c, i % d))
}

fn check_conv(case: &Case) {
    let operands: Vec<Operand> = case
        .inputs
        .iter()
        .map(|&channels| Operand { shape: ValueShape { dims: case.dims, channels }, negative_slope: 0.01 })
        .collect();
    let values: Vec<_> = operands.iter().enumerate().map(|(i, &o)| value(o, case.seed + i as u64)).collect();
    let [kz, ky, kx] = case.shape.kernel;
    let (total, out) = (case.inputs.iter().sum::<usize>(), case.shape.out_channels);
    let weight = noise(case.seed + 7, out * total * kz * ky * kx);
    let bias = noise(case.seed + 8, out);
    let seen: Vec<_> = values.iter().map(|v| v.1.clone()).collect();
    let expected = naive_conv(case, &seen, &weight, &bias);
    let weight = Tensor::from_vec(weight, (out, total, kz, ky, kx), &Device::Cpu).unwrap();
    let bias = Tensor::new(bias.as_slice(), &Device::Cpu).unwrap();
    let norm = InstanceNorm { weight: noise(3, out), bias: noise(4, out), eps: 1e-5, negative_slope: 0.01 };
    let shape = ValueShape { dims: case.shape.out_dims(case.dims), channels: out };
    for arithmetic in arithmetics() {
        let conv =
            Conv3d::new(case.shape, &operands, &weight, Some(&bias), Some(norm.clone()), arithmetic).unwrap();
        let sources: Vec<&Tensor> = values.iter().map(|v| &v.0).collect();
        let got = computed(&conv, &sources, noise(9, shape.storage_len()));
        let (tolerance, norm_tolerance) = tolerances(arithmetic, total * kz * ky * kx);
        let check = |got: &[f32]| {
            for (i, (g, e)) in got[2 * out..].iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(*g) - e).abs() < tolerance,
                    "{arithmetic}: element {i} is {g}, expected {e}"
                );
            }
            for c in 0..out {
                let channel: Vec<f64> = expected.iter().skip(c).step_by(out).copied().collect();
                let mean = channel.iter().sum::<f64>() / channel.len() as f64;
                let variance = channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channel.len() as f64;
                let scale = f64::from(norm.weight[c]) / (variance + norm.eps).sqrt();
                let shift = f64::from(norm.bias[c]) - mean * scale;
                let near = |a: f32, b: f64, slack: f64| {
                    (f64::from(a) - b).abs() < norm_tolerance * (1.0 + b.abs()) + slack
                };
                // Where voxels hardly vary the scale is large, and with it what mean and variance are off by.
                let off = 2.0 * tolerance * variance.sqrt() + tolerance * tolerance;
                let of_scale = scale.abs() * off / (variance + norm.eps);
                let of_shift = tolerance * scale.abs() + mean.abs() * of_scale;
                assert!(
                    near(got[c], scale, of_scale) && near(got[out + c], shift, of_shift),
                    "{arithmetic}: norm of channel {c}"
                );
            }
        };
        check(&got);
        if let [first, second] = operands[..] {
            // The second input alone, then the first one added to it.
            let channels = first.shape.channels;
            let parts = [weight.narrow(1, channels, total - channels), weight.narrow(1, 0, channels)];
            let [of_second, of_first] = parts.map(Result::unwrap);
            let begun =
                Conv3d::new(case.shape, &[second], &of_second, Some(&bias), None, arithmetic).unwrap();
            let ended = Conv3d::new(case.shape, &[first], &of_first, None, Some(norm.clone()), arithmetic);
            let ended = ended.unwrap().added_to_output().unwrap();
            let sums = computed(&begun, &[sources[1]], noise(9, shape.storage_len()));
            check(&computed(&ended, &[sources[0]], sums));
        }
    }
}

fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), Just(2), Just(7), Just(8), Just(9), Just(16), Just(24), Just(33), Just(40)]
}

fn kernel() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![Just([1, 1, 1]), Just([1, 3, 3]), Just([3, 3, 3]), Just([3, 1, 5]), Just([5, 3, 1])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn convolution_equals_the_naive_one(
        dims in (1usize..6, 1usize..9, 1usize..33),
        inputs in proptest::collection::vec(channels(), 1..3),
        out_channels in channels(),
        kernel in kernel(),
        stride in (1usize..3, 1usize..3, 1usize..3),
        seed in 1u64..1000,
    ) {
        let shape = ConvShape { out_channels, kernel, stride: stride.into() };
        check_conv(&Case { dims: dims.into(), inputs, shape, seed });
    }

    #[test]
    fn transposed_convolution_equals_the_naive_one(
        dims in (1usize..5, 1usize..6, 1usize..20),
        input in channels(),
        out in channels(),
        stride in prop_oneof![Just([1, 2, 2]), Just([2, 2, 2]), Just([1, 1, 2]), Just([2, 1, 3])],
        seed in 1u64..1000,
    ) {
        let dims: [usize; 3] = dims.into();
        let operand = Operand { shape: ValueShape { dims, channels: input }, negative_slope: 0.1 };
        let (stored, seen) = value(operand, seed);
        let [sz, sy, sx] = stride;
        let weight = noise(seed + 1, input * out * sz * sy * sx);
        let bias = noise(seed + 2, out);
        let tensor = Tensor::from_vec(weight.clone(), (input, out, sz, sy, sx), &Device::Cpu).unwrap();
        let shape = ValueShape { dims: [dims[0] * sz, dims[1] * sy, dims[2] * sx], channels: out };
        for arithmetic in arithmetics() {
            let (tolerance, _) = tolerances(arithmetic, input);
            let bias_tensor = Tensor::new(bias.as_slice(), &Device::Cpu).unwrap();
            let op = TransposedConv3d::new(stride, operand, &tensor, Some(&bias_tensor), arithmetic).unwrap();
            let got = computed(&op, &[&stored], noise(9, shape.storage_len()));
            prop_assert!(got[..out].iter().all(|&s| s == 1.0) && got[out..2 * out].iter().all(|&s| s == 0.0));
            for (i, (z, y, x, o)) in itertools4(shape.dims[0], shape.dims[1], shape.dims[2], out).enumerate() {
                let voxel = ((z / sz * dims[1] + y / sy) * dims[2] + x / sx) * input;
                let tap = (z % sz * sy + y % sy) * sx + x % sx;
                let expected = bias[o] + (0..input).map(|c| seen[voxel + c] * weight[(c * out + o) * sz * sy * sx + tap]).sum::<f32>();
                prop_assert!(f64::from((got[2 * out + i] - expected).abs()) < tolerance, "{arithmetic}: element {i}");
            }
        }
    }

    #[test]
    fn a_gathered_tile_turned_back_and_accumulated_is_the_image(
        dims in (1usize..7, 1usize..8, 1usize..9),
        tile in (1usize..9, 1usize..9, 1usize..9),
        start in (-3isize..4, -3isize..4, -3isize..4),
        mirroring in (any::<bool>(), any::<bool>(), any::<bool>()),
        channels in 1usize..4,
    ) {
        let (image_dims, start): ([usize; 3], [isize; 3]) = (dims.into(), start.into());
        let tile = ValueShape { dims: tile.into(), channels };
        let mirroring = mirroring.into();
        let image = noise(5, channels * image_dims.iter().product::<usize>());
        let image_tensor = Tensor::new(image.as_slice(), &Device::Cpu).unwrap();
        let input = Tensor::new(noise(6, tile.storage_len()).as_slice(), &Device::Cpu).unwrap();
        input.inplace_op2(&image_tensor, &GatherTile { image_dims, start, tile, mirroring }).unwrap();
        let sum = Tensor::new(noise(7, tile.data_len()).as_slice(), &Device::Cpu).unwrap();
        let features = Operand { shape: tile, negative_slope: 1.0 };
        let identity = Tensor::eye(channels, DType::F32, &Device::Cpu).unwrap();
        let identity = identity.reshape((channels, channels, 1, 1, 1)).unwrap();
        let head = SegmentationHead::new(features, &identity, None, Arithmetic::detect()).unwrap();
        for first in [true, false] {
            sum.inplace_op2(&input, &AddLogits { head: &head, mirroring, first }).unwrap();
        }
        let weights = noise(8, tile.voxels());
        let weight_tensor = Tensor::new(weights.as_slice(), &Device::Cpu).unwrap();
        let total = Tensor::zeros(image.len(), DType::F32, &Device::Cpu).unwrap();
        let accumulate = AccumulateTile { image_dims, start, tile, predictions: 2 };
        total.inplace_op3(&sum, &weight_tensor, &accumulate).unwrap();
        let got = total.to_vec1::<f32>().unwrap();
        for (i, (z, y, x, c)) in itertools4(image_dims[0], image_dims[1], image_dims[2], channels).enumerate() {
            let in_tile: Vec<isize> = [z, y, x].iter().zip(start).map(|(&p, s)| p as isize - s).collect();
            let inside = in_tile.iter().zip(tile.dims).all(|(&p, n)| p >= 0 && (p as usize) < n);
            let expected = if inside {
                let voxel = image[((c * image_dims[0] + z) * image_dims[1] + y) * image_dims[2] + x];
                let at = (in_tile[0] as usize * tile.dims[1] + in_tile[1] as usize) * tile.dims[2] + in_tile[2] as usize;
                voxel * weights[at]
            } else {
                0.0
            };
            prop_assert!((got[i] - expected).abs() < 1e-6, "voxel {z},{y},{x} channel {c}: {} for {expected}", got[i]);
        }
    }
}

/// So many channels that the weights of a block are used in stretches.
#[test]
fn convolutions_of_many_channels_equal_the_naive_one() {
    for (dims, stride) in [([2, 3, 19], [1; 3]), ([3, 5, 37], [2, 1, 2])] {
        let shape = ConvShape { out_channels: 40, kernel: [3; 3], stride };
        check_conv(&Case { dims, inputs: vec![200, 128], shape, seed: 17 });
    }
}

#[test]
fn results_are_the_same_bits_at_any_number_of_threads() {
    let dims = [6, 13, 20];
    // The last one's weights are used in stretches.
    for (channels, out_channels) in [(8, 16), (32, 40), (320, 40)] {
        let operand = Operand { shape: ValueShape { dims, channels }, negative_slope: 0.01 };
        let shape = ConvShape { out_channels, kernel: [3; 3], stride: [1, 2, 2] };
        let (input, _) = value(operand, 11);
        let weight = noise(12, out_channels * channels * 27);
        let weight = Tensor::from_vec(weight, (out_channels, channels, 3, 3, 3), &Device::Cpu).unwrap();
        let (ones, zeros) = (vec![1.0; out_channels], vec![0.0; out_channels]);
        let norm = InstanceNorm { weight: ones, bias: zeros, eps: 1e-5, negative_slope: 0.01 };
        let out = ValueShape { dims: shape.out_dims(dims), channels: out_channels };
        for arithmetic in arithmetics() {
            let norm = Some(norm.clone());
            let conv = Conv3d::new(shape, &[operand], &weight, None, norm, arithmetic).unwrap();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let output = pool.install(|| computed(&conv, &[&input], vec![0.0; out.storage_len()]));
                output.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            };
            let one = run(1);
            assert!(one == run(2) && one == run(5), "{arithmetic}: {channels} channels");
        }
    }
}

/// Values of one channel, all 1, of which the operator adds up pairs.
fn pair_sum() -> ResidualAdd {
    let operand = Operand { shape: ValueShape { dims: [1, 1, 4], channels: 1 }, negative_slope: 1.0 };
    ResidualAdd::new([operand; 2], 1.0, Arithmetic::detect()).unwrap()
}

#[test]
fn values_of_one_buffer_are_read_and_written_apart() {
    let operator = pair_sum();
    let stored = |raw: [f32; 4]| [[1.0, 0.0].as_slice(), &raw].concat();
    let both = [stored([1.0, 2.0, 3.0, 4.0]), vec![9.0; 8], stored([10.0, 20.0, 30.0, 40.0])].concat();
    let sum = |sources: &[Range<usize>], output: Range<usize>| {
        let buffer = Tensor::new(both.as_slice(), &Device::Cpu).unwrap();
        let (operator, sources) = (&operator as &dyn Operator, sources.to_vec());
        buffer
            .inplace_op1(&Within { operator, sources, output, samples: 1 })
            .map(|()| buffer.to_vec1::<f32>().unwrap())
    };
    let got = sum(&[0..6, 14..20], 7..13).unwrap();
    assert_eq!(got[7..13], stored([11.0, 22.0, 33.0, 44.0]));
    assert!(got[..7] == both[..7] && got[13..] == both[13..], "nothing beside the output is written");
    assert_eq!(sum(&[0..6, 0..6], 7..13).unwrap()[9..13], [2.0, 4.0, 6.0, 8.0]);
    let refused = |sources: &[Range<usize>], output| sum(sources, output).unwrap_err().to_string();
    assert!(refused(&[0..6, 14..20], 5..11).contains("of a buffer of 20 floats"));
    assert!(refused(&[0..6, 14..20], 15..21).contains("[0..6, 14..20] and 15..21 of a buffer of 20 floats"));
    assert!(refused(&[], 7..13).contains("residual_add: 0 sources"));
    assert!(refused(&[0..5, 14..20], 7..13).contains("input buffer holds 5 floats"));
}

#[test]
fn what_lies_behind_the_front_moves_there() {
    let values = Tensor::new(&[1f32, 2.0, 3.0, 4.0, 5.0], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F16] {
        for (elements, expected) in
            [(0, [1.0, 2.0, 3.0, 4.0, 5.0]), (2, [3.0, 4.0, 5.0, 0.0, 0.0]), (5, [0.0; 5])]
        {
            let moved = (values.to_dtype(dtype).unwrap() + 0.0).unwrap();
            moved.inplace_op1(&DiscardFront { elements }).unwrap();
            assert_eq!(moved.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
    let error = values.inplace_op1(&DiscardFront { elements: 6 }).unwrap_err().to_string();
    assert!(error.contains("discard_front: 6 of"), "{error}");
}
