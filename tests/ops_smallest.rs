//! Every kernel on grids of a few voxels and vectors that do not come out even, where what it reads beside them shows.
//!
//! Small enough for Miri and for memory checkers, which `scripts/check_memory.sh` runs it under. All inputs and weights
//! are 1, so that every output is the number of taps inside the image times the channels.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(not(miri))]
#[path = "amx_emulation/emulator/mod.rs"]
mod amx_emulator;

use candle_core::{Device, Tensor};
use pdac_cascade::ops::{
    Arithmetic, Conv3d, ConvShape, InstanceNorm, Isa, Operand, Operator, Precision, TransposedConv3d,
    ValueShape,
};

/// Everything that can be run here, AMX emulated if need be.
fn arithmetics() -> Vec<Arithmetic> {
    #[cfg(not(miri))]
    amx_emulator::provide();
    let bf16 = Arithmetic::new(Some(Isa::Amx), Precision::Bf16).ok();
    bf16.into_iter().chain(Arithmetic::available()).collect()
}

/// A value whose voxels are all 1, in a buffer of exactly its length.
fn ones(shape: ValueShape) -> Vec<f32> {
    let mut stored = vec![1f32; shape.storage_len()];
    stored[shape.channels..2 * shape.channels].fill(0.0);
    stored
}

/// Taps of a kernel centred on `position · stride` that fall inside an axis.
fn taps_inside(position: usize, stride: usize, kernel: usize, size: usize) -> usize {
    let inside = |tap: usize| (position * stride + tap).checked_sub(kernel / 2).is_some_and(|i| i < size);
    (0..kernel).filter(|&tap| inside(tap)).count()
}

fn check_conv(dims: [usize; 3], inputs: &[usize], shape: ConvShape) {
    let values = inputs.iter().map(|&channels| ValueShape { dims, channels });
    let operands: Vec<Operand> = values.map(|shape| Operand { shape, negative_slope: 0.01 }).collect();
    let sources: Vec<Vec<f32>> = operands.iter().map(|operand| ones(operand.shape)).collect();
    let (total, out) = (inputs.iter().sum::<usize>(), shape.out_channels);
    let [kz, ky, kx] = shape.kernel;
    let weight = Tensor::ones((out, total, kz, ky, kx), candle_core::DType::F32, &Device::Cpu).unwrap();
    let norm = InstanceNorm { weight: vec![1.0; out], bias: vec![0.0; out], eps: 1e-5, negative_slope: 0.01 };
    let value = ValueShape { dims: shape.out_dims(dims), channels: out };
    for arithmetic in arithmetics() {
        let norm = Some(norm.clone());
        let conv = Conv3d::new(shape, &operands, &weight, None, norm, arithmetic).unwrap();
        let mut got = ones(value);
        let sources: Vec<&[f32]> = sources.iter().map(Vec::as_slice).collect();
        conv.run(&mut got, &sources).unwrap();
        for (i, &got) in got[2 * out..].iter().enumerate() {
            let voxel = i / out;
            let [_, height, width] = value.dims;
            let position = [voxel / width / height, voxel / width % height, voxel % width];
            let taps: usize =
                (0..3).map(|a| taps_inside(position[a], shape.stride[a], shape.kernel[a], dims[a])).product();
            let expected = (taps * total) as f32;
            // Winograd weighs by sixths, which are no binary fractions.
            assert!(
                (got - expected).abs() <= 1e-5 * expected,
                "{arithmetic}, {dims:?}, {inputs:?}, {shape:?}: {position:?}"
            );
        }
    }
}

#[test]
fn convolutions_count_their_taps() {
    for (dims, inputs, out_channels, kernel, stride) in [
        ([1, 1, 1], &[1][..], 1, [3, 3, 3], [1, 1, 1]),
        ([2, 3, 5], &[3], 9, [3, 3, 3], [1, 1, 1]),
        ([2, 2, 7], &[1], 7, [1, 3, 3], [1, 1, 1]),
        ([3, 2, 3], &[2, 5], 17, [3, 3, 3], [1, 1, 1]),
        ([2, 3, 5], &[8], 8, [1, 3, 3], [1, 2, 2]),
        ([3, 3, 3], &[4], 3, [3, 1, 5], [2, 2, 2]),
        ([1, 2, 9], &[7], 33, [1, 1, 1], [1, 1, 1]),
        ([1, 2, 4], &[33, 1], 2, [1, 3, 3], [1, 1, 1]),
    ] {
        check_conv(dims, inputs, ConvShape { out_channels, kernel, stride });
    }
}

#[test]
fn wide_convolutions_count_their_taps() {
    if cfg!(miri) {
        return;
    }
    for (dims, inputs, out_channels, kernel, stride) in [
        ([3, 4, 17], &[32][..], 64, [3, 3, 3], [1, 1, 1]),
        ([2, 3, 33], &[64, 64], 64, [3, 3, 3], [1, 1, 1]),
        ([4, 5, 18], &[24], 24, [3, 3, 3], [2, 2, 2]),
        ([2, 4, 31], &[40], 320, [1, 3, 3], [1, 2, 2]),
        ([2, 4, 16], &[320], 7, [1, 1, 1], [1, 1, 1]),
    ] {
        check_conv(dims, inputs, ConvShape { out_channels, kernel, stride });
    }
}

#[test]
fn transposed_convolutions_count_their_channels() {
    for (dims, input, out, stride) in [
        ([1, 1, 1], 1, 1, [1, 2, 2]),
        ([2, 1, 3], 3, 5, [2, 2, 2]),
        ([1, 2, 5], 9, 8, [1, 2, 2]),
        ([1, 2, 2], 2, 3, [2, 1, 3]),
        ([1, 1, 4], 33, 17, [1, 1, 2]),
    ] {
        let operand = Operand { shape: ValueShape { dims, channels: input }, negative_slope: 0.1 };
        let [z, y, x] = stride;
        let weight = Tensor::ones((input, out, z, y, x), candle_core::DType::F32, &Device::Cpu).unwrap();
        let value = ValueShape { dims: std::array::from_fn(|a| dims[a] * stride[a]), channels: out };
        for arithmetic in arithmetics() {
            let up = TransposedConv3d::new(stride, operand, &weight, None, arithmetic).unwrap();
            let mut got = ones(value);
            up.run(&mut got, &[&ones(operand.shape)]).unwrap();
            assert!(got[2 * out..].iter().all(|&v| v == input as f32), "{arithmetic}, {dims:?}: {got:?}");
        }
    }
}
