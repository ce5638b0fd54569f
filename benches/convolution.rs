//! Every kind of convolution of the networks at its real width, per arithmetic; elements are FLOP.
//!
//! `cargo bench --bench convolution -- 'avx512'` measures one arithmetic only. At the end a table tells the share of the machine's peak, measured in the same run, that each reaches. The grids are
//! those of the PANORAMA lesion network's patch (48 × 128 × 288), cut to fewer slices, and of the demonstration networks.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use pdac_cascade::ops::{
    Arithmetic, Conv3d, ConvShape, InstanceNorm, Isa, Operand, Operator, Precision, TransposedConv3d,
    ValueShape, Within, peak_flops, zeros,
};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A layer: grid (z, y, x) and channels of its inputs, output channels.
struct Layer {
    name: &'static str,
    dims: [usize; 3],
    inputs: &'static [usize],
    out_channels: usize,
    kind: Kind,
}

enum Kind {
    /// Kernel and stride; an instance norm follows.
    Conv([usize; 3], [usize; 3]),
    /// Stride.
    Upsample([usize; 3]),
}

const fn conv(
    name: &'static str,
    dims: [usize; 3],
    inputs: &'static [usize],
    out_channels: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
) -> Layer {
    Layer { name, dims, inputs, out_channels, kind: Kind::Conv(kernel, stride) }
}

const fn upsample(
    name: &'static str,
    dims: [usize; 3],
    inputs: &'static [usize],
    out_channels: usize,
    stride: [usize; 3],
) -> Layer {
    Layer { name, dims, inputs, out_channels, kind: Kind::Upsample(stride) }
}

const FLAT: [usize; 3] = [1, 3, 3];
const CUBE: [usize; 3] = [3; 3];
const ONE: [usize; 3] = [1; 3];

const LAYERS: [Layer; 17] = [
    conv("1-32 flat", [8, 128, 288], &[1], 32, FLAT, ONE),
    conv("32-32 flat", [8, 128, 288], &[32], 32, FLAT, ONE),
    conv("32+32-32 flat", [4, 128, 288], &[32, 32], 32, FLAT, ONE),
    conv("32-64 stride 1x2x2", [6, 128, 288], &[32], 64, CUBE, [1, 2, 2]),
    conv("64-64", [4, 64, 144], &[64], 64, CUBE, ONE),
    conv("64+64-64", [4, 64, 144], &[64, 64], 64, CUBE, ONE),
    conv("64-128 stride 2", [12, 64, 144], &[64], 128, CUBE, [2; 3]),
    conv("128-128", [4, 32, 72], &[128], 128, CUBE, ONE),
    conv("256-256", [4, 16, 36], &[256], 256, CUBE, ONE),
    conv("320-320 deep", [6, 8, 18], &[320], 320, CUBE, ONE),
    conv("320-320 deepest", [6, 4, 9], &[320], 320, CUBE, ONE),
    conv("32-7 logits", [8, 128, 288], &[32], 7, ONE, ONE),
    conv("24-24 flat", [16, 48, 64], &[24], 24, FLAT, ONE),
    conv("8-8 flat", [16, 48, 64], &[8], 8, FLAT, ONE),
    conv("1-8 flat", [16, 48, 64], &[1], 8, FLAT, ONE),
    upsample("320-256 up 2", [6, 8, 18], &[320], 256, [2; 3]),
    upsample("64-32 up 1x2x2", [8, 64, 144], &[64], 32, [1, 2, 2]),
];

/// An operator with its values, ready to run.
struct Ready {
    buffer: Tensor,
    sources: Vec<Range<usize>>,
    output: Range<usize>,
    operator: Box<dyn Operator>,
}

impl Layer {
    fn out_shape(&self) -> ValueShape {
        let dims = match self.kind {
            Kind::Conv(kernel, stride) => {
                ConvShape { out_channels: self.out_channels, kernel, stride }.out_dims(self.dims)
            }
            Kind::Upsample(stride) => std::array::from_fn(|a| self.dims[a] * stride[a]),
        };
        ValueShape { dims, channels: self.out_channels }
    }

    /// Floating-point operations, as `Plan::flop` counts them.
    fn flop(&self) -> u64 {
        let taps: usize = match self.kind {
            Kind::Conv(kernel, _) => kernel.iter().product(),
            Kind::Upsample(_) => 1,
        };
        2 * (self.out_shape().data_len() * self.inputs.iter().sum::<usize>() * taps) as u64
    }

    fn ready(&self, arithmetic: Arithmetic) -> candle_core::Result<Ready> {
        let noise =
            |shape: &[usize], deviation: f64| Tensor::randn(0f32, deviation as f32, shape, &Device::Cpu);
        let operands: Vec<Operand> = self
            .inputs
            .iter()
            .map(|&channels| Operand {
                shape: ValueShape { dims: self.dims, channels },
                negative_slope: 0.01,
            })
            .collect();
        let total = self.inputs.iter().sum();
        let operator: Box<dyn Operator> = match self.kind {
            Kind::Conv(kernel, stride) => {
                let shape = ConvShape { out_channels: self.out_channels, kernel, stride };
                let weight = noise(&[self.out_channels, total, kernel[0], kernel[1], kernel[2]], 0.05)?;
                let ones = vec![1.0; self.out_channels];
                let norm = InstanceNorm { bias: ones.clone(), weight: ones, eps: 1e-5, negative_slope: 0.01 };
                Box::new(Conv3d::new(shape, &operands, &weight, None, Some(norm), arithmetic)?)
            }
            Kind::Upsample(stride) => {
                let weight = noise(&[total, self.out_channels, stride[0], stride[1], stride[2]], 0.05)?;
                Box::new(TransposedConv3d::new(stride, operands[0], &weight, None, arithmetic)?)
            }
        };
        // One after the other, each on a cache line.
        let mut end = 0;
        let mut place = |shape: ValueShape| {
            let start = end;
            end = (start + shape.storage_len()).next_multiple_of(16);
            start..start + shape.storage_len()
        };
        let sources: Vec<_> = operands.iter().map(|operand| place(operand.shape)).collect();
        let output = place(self.out_shape());
        let buffer = zeros(end)?;
        for source in &sources {
            buffer.slice_set(&noise(&[source.len()], 1.0)?, 0, source.start)?;
        }
        Ok(Ready { buffer, sources, output, operator })
    }
}

impl Ready {
    fn run(&self) -> candle_core::Result<()> {
        let (sources, output) = (self.sources.clone(), self.output.clone());
        self.buffer.inplace_op1(&Within { operator: self.operator.as_ref(), sources, output, samples: 1 })
    }
}

/// All that this processor offers, fastest first.
fn arithmetics() -> Vec<Arithmetic> {
    let bf16 = Arithmetic::new(Some(Isa::Amx), Precision::Bf16).ok();
    bf16.into_iter().chain(Arithmetic::available()).collect()
}

/// Fastest FLOP a second per layer and arithmetic.
type Rates = HashMap<(&'static str, String), f64>;

fn measure(criterion: &mut Criterion) -> Rates {
    let mut rates = Rates::new();
    let mut group = criterion.benchmark_group("convolution");
    group
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(10);
    for layer in &LAYERS {
        group.throughput(Throughput::Elements(layer.flop()));
        for arithmetic in arithmetics() {
            let id = BenchmarkId::new(arithmetic.to_string(), layer.name);
            let mut ready = None;
            group.bench_function(id, |bencher| {
                let ready = ready.get_or_insert_with(|| layer.ready(arithmetic).unwrap());
                bencher.iter_custom(|iterations| {
                    let started = Instant::now();
                    for _ in 0..iterations {
                        ready.run().unwrap();
                    }
                    let elapsed = started.elapsed();
                    let rate = (layer.flop() * iterations) as f64 / elapsed.as_secs_f64();
                    let best = rates.entry((layer.name, arithmetic.to_string())).or_insert(0.0);
                    *best = best.max(rate);
                    elapsed
                });
            });
        }
    }
    group.finish();
    rates
}

/// The machine's peak in FLOP a second, per arithmetic.
fn peaks() -> Vec<(Arithmetic, f64)> {
    let threads = rayon::current_num_threads();
    arithmetics().into_iter().map(|a| (a, peak_flops(a.isa(), threads).unwrap())).collect()
}

/// Prints, per layer and arithmetic, GFLOP/s and the share of the peak. In float32 AMX multiplies three halves for each
/// product, so that its share counts three.
fn print_shares(rates: &Rates, columns: &[(Arithmetic, f64)]) {
    let row = |cells: Vec<String>| println!("| {} |", cells.join(" | "));
    println!("\nFastest GFLOP/s and share of the peak, {} threads\n", rayon::current_num_threads());
    let heads = columns.iter().map(|(a, peak)| format!("{a} (peak {:.0})", peak / 1e9));
    row(std::iter::once("layer".to_owned()).chain(heads).collect());
    row(vec!["---".to_owned(); columns.len() + 1]);
    for layer in LAYERS.iter().filter(|layer| rates.keys().any(|(name, _)| *name == layer.name)) {
        let cells = columns.iter().map(|(arithmetic, peak)| {
            let products = if (arithmetic.isa(), arithmetic.precision()) == (Isa::Amx, Precision::F32) {
                3.0
            } else {
                1.0
            };
            rates.get(&(layer.name, arithmetic.to_string())).map_or_else(String::new, |rate| {
                format!("{:.0}, {:.0} %", rate / 1e9, 100.0 * products * rate / peak)
            })
        });
        row(std::iter::once(layer.name.to_owned()).chain(cells).collect());
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let before = peaks();
    let rates = measure(&mut criterion);
    if !rates.is_empty() {
        // The greater of two, so that a moment of other work on the machine does not pass for its peak.
        let columns: Vec<_> =
            before.into_iter().zip(peaks()).map(|((a, before), (_, after))| (a, before.max(after))).collect();
        print_shares(&rates, &columns);
    }
    criterion.final_summary();
}
