//! The convolutions of the demonstration networks and of a real-width one, per instruction set; elements are FLOP.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pdac_cascade::ops::{Arithmetic, Conv3d, ConvShape, Operand, ValueShape};
use std::time::Duration;

/// Grid (z, y, x), input and output channels, kernel.
const CASES: [([usize; 3], usize, usize, [usize; 3]); 4] = [
    ([16, 48, 64], 1, 8, [1, 3, 3]),
    ([16, 48, 64], 8, 8, [1, 3, 3]),
    ([16, 24, 32], 16, 16, [3, 3, 3]),
    ([12, 32, 72], 64, 64, [3, 3, 3]),
];

fn convolution(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv3d");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for (dims, channels, out_channels, kernel) in CASES {
        let shape = ConvShape { out_channels, kernel, stride: [1; 3] };
        let operand = Operand { shape: ValueShape { dims, channels }, negative_slope: 0.01 };
        let out = ValueShape { dims, channels: out_channels };
        let taps: usize = kernel.iter().product();
        group.throughput(Throughput::Elements(2 * (out.data_len() * channels * taps) as u64));
        let [z, y, x] = kernel;
        let weight = Tensor::randn(0f32, 1.0, (out_channels, channels, z, y, x), &Device::Cpu).unwrap();
        let input = Tensor::randn(0f32, 1.0, operand.shape.storage_len(), &Device::Cpu).unwrap();
        let output = Tensor::zeros(out.storage_len(), DType::F32, &Device::Cpu).unwrap();
        for arithmetic in Arithmetic::available() {
            let conv = Conv3d::new(shape, &[operand], &weight, None, None, arithmetic).unwrap();
            let id =
                BenchmarkId::new(arithmetic.to_string(), format!("{channels}->{out_channels} {kernel:?}"));
            group.bench_function(id, |b| b.iter(|| output.inplace_op2(&input, &conv).unwrap()));
        }
    }
    group.finish();
}

criterion_group!(benches, convolution);
criterion_main!(benches);
