//! Every operator on the GPU against the CPU's.

use crate::device::{Child, open_gpu, show_measured};
use crate::stored_values::{computed, noise};
use candle_core::{DType, Device, Tensor};
use half::f16;
use pdac_cascade::ops::{
    Arithmetic, AveragePool, Backend, Conv3d, ConvShape, Cuda, CudaPrecision, InstanceNorm, Isa, Operand,
    Operator, Precision, ResidualAdd, TransposedConv3d, ValueShape, Within,
};
use std::ops::Range;

/// Deviation from the CPU relative to the largest value. In float16 a sum over two sources and what a norm reads are rounded.
const SINGLE: f32 = 1e-5;
const HALF: f32 = 2e-3;
/// So much memory that none is lost on a large workspace for each convolution.
const SMALL: &str = "memory=64000000";
/// What the buffer holds where nothing is to be written.
const UNTOUCHED: f32 = -7.0;
/// Samples that a value has room for.
const ROOM: usize = 3;

#[test]
fn operators_agree_with_the_cpu() {
    for (precision, device) in [
        ("f32", SMALL),
        ("f16", SMALL),
        ("f32", "lazy,memory=64000000"),
        ("f16", "check-guards,memory=64000000"),
    ] {
        let child = Child::inner("operators::operators_agree_with_the_cpu_in_a_child");
        show_measured(&child.with("PDAC_TEST_PRECISION", precision).device(device).passes());
    }
}

#[test]
#[ignore = "runs on the software device, as a child of operators_agree_with_the_cpu"]
fn operators_agree_with_the_cpu_in_a_child() {
    let bench = Bench::open();
    for case in CONVOLUTIONS {
        for norm in [true, false] {
            bench.check_convolution(case, norm);
        }
    }
    for case in UPSAMPLINGS {
        bench.check_upsampling(case);
    }
    for (channels, samples, slope) in [(1, 1, 0.01), (3, 2, 1.0), (8, 3, 0.1), (12, 2, 0.01), (320, 1, 0.01)]
    {
        bench.check_residual_add(channels, samples, slope);
    }
    for case in POOLINGS {
        bench.check_pooling(case);
    }
    bench.check_norm_far_from_zero();
    bench.check_refusals();
}

/// Grid, channels of the sources, output channels, kernel, stride, samples.
type Convolution = ([usize; 3], &'static [usize], usize, [usize; 3], [usize; 3], usize);

const CONVOLUTIONS: [Convolution; 14] = [
    ([5, 6, 7], &[1], 8, [3, 3, 3], [1, 1, 1], 1),
    ([4, 5, 6], &[3], 12, [1, 1, 1], [1, 1, 1], 2),
    ([4, 7, 6], &[8], 3, [1, 3, 3], [1, 2, 2], 3),
    ([5, 4, 6], &[12], 40, [3, 1, 3], [2, 2, 2], 2),
    ([5, 5, 6], &[8], 8, [5, 5, 5], [1, 1, 1], 1),
    ([4, 5, 5], &[3], 8, [5, 3, 1], [2, 1, 2], 2),
    ([3, 4, 4], &[12, 8], 12, [3, 3, 3], [1, 1, 1], 2),
    ([3, 4, 5], &[3, 12], 40, [3, 3, 3], [1, 1, 1], 3),
    ([3, 4, 5], &[1, 1], 1, [1, 3, 3], [1, 1, 1], 1),
    ([2, 3, 3], &[320], 40, [3, 3, 3], [1, 1, 1], 1),
    ([2, 4, 4], &[40], 320, [3, 3, 3], [2, 2, 2], 2),
    ([2, 2, 3], &[320, 40], 12, [1, 1, 1], [1, 1, 1], 2),
    // A norm's sums in several stretches, the last of them not full.
    ([7, 20, 22], &[1], 3, [3, 3, 3], [1, 1, 1], 2),
    ([9, 15, 17], &[8], 12, [3, 3, 3], [1, 2, 1], 3),
];

/// Grid, channels in and out, stride, samples.
type Upsampling = ([usize; 3], usize, usize, [usize; 3], usize);

const UPSAMPLINGS: [Upsampling; 7] = [
    ([2, 3, 4], 8, 8, [2, 2, 2], 1),
    ([3, 2, 5], 12, 3, [1, 2, 2], 2),
    ([2, 3, 3], 1, 12, [2, 1, 1], 3),
    ([2, 2, 3], 320, 40, [2, 2, 2], 2),
    ([3, 3, 2], 40, 1, [2, 1, 3], 1),
    ([2, 3, 2], 3, 8, [1, 1, 1], 2),
    ([6, 9, 11], 16, 8, [2, 2, 2], 1),
];

/// Grid, channels, stride, samples.
type Pooling = ([usize; 3], usize, [usize; 3], usize);

const POOLINGS: [Pooling; 7] = [
    ([4, 6, 8], 8, [2, 2, 2], 1),
    ([3, 4, 6], 12, [1, 2, 2], 2),
    ([6, 2, 3], 1, [2, 1, 1], 3),
    ([2, 4, 4], 320, [2, 2, 2], 2),
    ([2, 3, 6], 3, [1, 3, 2], 1),
    // What fills no window is dropped.
    ([5, 7, 9], 40, [2, 2, 2], 2),
    ([2, 9, 11], 16, [1, 4, 3], 3),
];

fn activated(value: f32, slope: f32) -> f32 {
    if value >= 0.0 { value } else { value * slope }
}

fn padded(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

fn operand(dims: [usize; 3], channels: usize) -> Operand {
    Operand { shape: ValueShape { dims, channels }, negative_slope: 1.0 }
}

/// The GPU, and what it is compared with.
struct Bench {
    cuda: Cuda,
    cpu: Arithmetic,
}

/// A value of several samples, (sample, voxel, channel).
struct Value {
    shape: ValueShape,
    samples: Vec<Vec<f32>>,
}

impl Bench {
    fn open() -> Self {
        Self { cuda: open_gpu(), cpu: Arithmetic::new(Some(Isa::Portable), Precision::F32).unwrap() }
    }

    fn tolerance(&self) -> f32 {
        match self.cuda.precision() {
            CudaPrecision::F16 => HALF,
            CudaPrecision::F32 => SINGLE,
        }
    }

    /// Numbers that the GPU's precision has.
    fn numbers(&self, seed: u64, n: usize) -> Vec<f32> {
        let exact = |v: f32| match self.cuda.precision() {
            CudaPrecision::F16 => f16::from_f32(v).to_f32(),
            CudaPrecision::F32 => v,
        };
        noise(seed, n).into_iter().map(exact).collect()
    }

    fn value(&self, shape: ValueShape, samples: usize, seed: u64) -> Value {
        let sample = |i| self.numbers(seed + 100 * i as u64, shape.data_len());
        Value { shape, samples: (0..samples).map(sample).collect() }
    }

    fn tensor(&self, seed: u64, shape: &[usize]) -> Tensor {
        Tensor::from_vec(self.numbers(seed, shape.iter().product()), shape, &Device::Cpu).unwrap()
    }

    fn check_convolution(&self, case: Convolution, norm: bool) {
        let (dims, inputs, out_channels, kernel, stride, samples) = case;
        let shape = ConvShape { out_channels, kernel, stride };
        let operands: Vec<Operand> = inputs.iter().map(|&channels| operand(dims, channels)).collect();
        let sources: Vec<Value> =
            operands.iter().zip(1..).map(|(o, seed)| self.value(o.shape, samples, seed)).collect();
        let [z, y, x] = kernel;
        let weight = self.tensor(11, &[out_channels, inputs.iter().sum(), z, y, x]);
        let bias = self.tensor(12, &[out_channels]);
        let (scales, shifts) = (noise(13, out_channels), noise(14, out_channels));
        let norm =
            norm.then_some(InstanceNorm { weight: scales, bias: shifts, eps: 1e-5, negative_slope: 0.01 });
        let slope = norm.as_ref().map_or(1.0, |norm| norm.negative_slope);
        let new = |backend: Backend| {
            Conv3d::new(shape, &operands, &weight, Some(&bias), norm.clone(), backend).unwrap()
        };
        let out = ValueShape { dims: shape.out_dims(dims), channels: out_channels };
        let what = format!("convolution {case:?}, norm {}", norm.is_some());
        self.compare(&what, [&new(self.cuda.into()), &new(self.cpu.into())], &sources, out, slope);
    }

    fn check_upsampling(&self, case: Upsampling) {
        let (dims, input, channels, stride, samples) = case;
        let operand = operand(dims, input);
        let [z, y, x] = stride;
        let (weight, bias) = (self.tensor(21, &[input, channels, z, y, x]), self.tensor(22, &[channels]));
        let new =
            |backend: Backend| TransposedConv3d::new(stride, operand, &weight, Some(&bias), backend).unwrap();
        let out = ValueShape { dims: std::array::from_fn(|a| dims[a] * stride[a]), channels };
        let sources = [self.value(operand.shape, samples, 23)];
        let what = format!("transposed convolution {case:?}");
        self.compare(&what, [&new(self.cuda.into()), &new(self.cpu.into())], &sources, out, 1.0);
    }

    fn check_residual_add(&self, channels: usize, samples: usize, slope: f32) {
        let operand = operand([3, 4, 5], channels);
        let new = |backend: Backend| ResidualAdd::new([operand; 2], slope, backend).unwrap();
        let sources = [31, 32].map(|seed| self.value(operand.shape, samples, seed));
        let what = format!("residual add of {channels} channels, slope {slope}");
        self.compare(&what, [&new(self.cuda.into()), &new(self.cpu.into())], &sources, operand.shape, 1.0);
    }

    fn check_pooling(&self, case: Pooling) {
        let (dims, channels, stride, samples) = case;
        let operand = operand(dims, channels);
        let new = |backend: Backend| AveragePool::new(operand, stride, backend).unwrap();
        let out = ValueShape { dims: AveragePool::out_dims(dims, stride), channels };
        let sources = [self.value(operand.shape, samples, 51)];
        let what = format!("average pooling {case:?}");
        self.compare(&what, [&new(self.cuda.into()), &new(self.cpu.into())], &sources, out, 1.0);
    }

    /// Compares what an operator packed for the GPU and one for the CPU make of the same values.
    fn compare(
        &self,
        what: &str,
        [on_gpu, on_cpu]: [&dyn Operator; 2],
        sources: &[Value],
        out: ValueShape,
        slope: f32,
    ) {
        let expected: Vec<Vec<f32>> =
            (0..sources[0].samples.len()).map(|i| cpu_result(on_cpu, sources, i, out, slope)).collect();
        let deviation = deviation(what, &self.gpu_result(on_gpu, sources, out), &expected, out.channels);
        eprintln!("measured: {}, {what}: deviation {deviation:.1e}", self.cuda.precision());
        assert!(deviation <= self.tolerance(), "{what}: deviation {deviation}");
    }

    /// The samples of the output with its padded channels; checks that nothing else was written.
    fn gpu_result(&self, operator: &dyn Operator, sources: &[Value], out: ValueShape) -> Vec<Vec<f32>> {
        let samples = sources[0].samples.len();
        let mut host = vec![UNTOUCHED; 64];
        let mut places = Vec::new();
        for source in sources {
            let begin = host.len();
            source.samples.iter().for_each(|sample| put_padded(&mut host, sample, source.shape.channels));
            places.push(begin..begin + ROOM * source.shape.voxels() * padded(source.shape.channels));
            host.resize((host.len().max(places[places.len() - 1].end) + 64).next_multiple_of(64), UNTOUCHED);
        }
        let one = out.voxels() * padded(out.channels);
        let place = host.len()..host.len() + ROOM * one;
        host.resize(place.end + 64, UNTOUCHED);
        let got = self.run_within(operator, &host, places, place.clone(), samples).unwrap();
        let written = place.start..place.start + samples * one;
        assert_eq!(got[..written.start], host[..written.start], "written before the output");
        assert_eq!(got[written.end..], host[written.end..], "written behind the output's samples");
        got[written].chunks(one).map(<[f32]>::to_vec).collect()
    }

    fn run_within(
        &self,
        operator: &dyn Operator,
        host: &[f32],
        sources: Vec<Range<usize>>,
        output: Range<usize>,
        samples: usize,
    ) -> candle_core::Result<Vec<f32>> {
        let dtype = match self.cuda.precision() {
            CudaPrecision::F16 => DType::F16,
            CudaPrecision::F32 => DType::F32,
        };
        let host = Tensor::new(host, &Device::Cpu)?.to_dtype(dtype)?;
        let buffer = host.to_device(&Device::Cuda(self.cuda.device().clone()))?;
        buffer.inplace_op1(&Within { operator, sources, output, samples })?;
        self.cuda.synchronise().unwrap();
        buffer.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1()
    }

    /// Values of mean 1000 and deviation 1: a variance from the mean of squares would be off by a tenth.
    fn check_norm_far_from_zero(&self) {
        if self.cuda.precision() == CudaPrecision::F16 {
            return;
        }
        let (shape, channels) = (ValueShape { dims: [8, 16, 16], channels: 8 }, 8);
        let values: Vec<f32> = noise(41, shape.data_len()).iter().map(|v| 1000.0 + v * 3f32.sqrt()).collect();
        let identity = Tensor::eye(channels, DType::F32, &Device::Cpu).unwrap();
        let identity = identity.reshape((channels, channels, 1, 1, 1)).unwrap();
        let (weight, bias) = (vec![1.0; channels], vec![0.0; channels]);
        let norm = InstanceNorm { weight, bias, eps: 1e-5, negative_slope: 1.0 };
        let window = ConvShape { out_channels: channels, kernel: [1; 3], stride: [1; 3] };
        let operands = [Operand { shape, negative_slope: 1.0 }];
        let conv = Conv3d::new(window, &operands, &identity, None, Some(norm), self.cuda).unwrap();
        let mut expected = vec![0.0; values.len()];
        for c in 0..channels {
            let channel: Vec<f64> = values.iter().skip(c).step_by(channels).map(|&v| f64::from(v)).collect();
            let mean = channel.iter().sum::<f64>() / channel.len() as f64;
            let variance = channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channel.len() as f64;
            for (i, v) in channel.iter().enumerate() {
                expected[i * channels + c] = ((v - mean) / (variance + 1e-5).sqrt()) as f32;
            }
        }
        let got = self.gpu_result(&conv, &[Value { shape, samples: vec![values] }], shape);
        let deviation = deviation("norm far from zero", &got, &[expected], channels);
        eprintln!("measured: norm of values of mean 1000 and deviation 1: deviation {deviation:.1e}");
        // A float32 of 1000 has steps of 6e-5.
        assert!(deviation <= 1e-4, "{deviation}");
    }

    fn check_refusals(&self) {
        let operand = operand([1, 2, 2], 8);
        let [on_gpu, on_cpu] = [self.cuda.into(), Backend::Cpu(self.cpu)]
            .map(|backend| ResidualAdd::new([operand; 2], 1.0, backend).unwrap());
        let host = vec![0.0; 160];
        let refused = |operator: &ResidualAdd, sources: &[Range<usize>], output, samples| {
            self.run_within(operator, &host, sources.to_vec(), output, samples).unwrap_err().to_string()
        };
        let good = [0..32, 32..64];
        for (operator, sources, output, samples, expected) in [
            (&on_gpu, &good[..], 48..80, 1, "the source 32..64 overlaps the output 48..80"),
            (&on_gpu, &good[..], 130..162, 1, "130..162 of a buffer of 160 elements"),
            (&on_gpu, &good[..], 64..96, 2, "a value of 32 elements, needs 64"),
            (&on_gpu, &good[..1], 64..96, 1, "1 sources, expected two"),
            (&on_cpu, &good[..], 64..96, 1, "packed for the CPU"),
        ] {
            let error = refused(operator, sources, output, samples);
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }
}

/// Appends a sample with zeros for the padded channels.
fn put_padded(buffer: &mut Vec<f32>, sample: &[f32], channels: usize) {
    for voxel in sample.chunks(channels) {
        buffer.extend(voxel);
        buffer.resize(buffer.len() + padded(channels) - channels, 0.0);
    }
}

/// What the CPU's operator makes of sample `i`, as a reader sees it.
fn cpu_result(operator: &dyn Operator, sources: &[Value], i: usize, out: ValueShape, slope: f32) -> Vec<f32> {
    let stored: Vec<Tensor> = sources
        .iter()
        .map(|source| {
            let (ones, zeros) = (vec![1.0; source.shape.channels], vec![0.0; source.shape.channels]);
            Tensor::new([ones, zeros, source.samples[i].clone()].concat(), &Device::Cpu).unwrap()
        })
        .collect();
    let got = computed(operator, &stored.iter().collect::<Vec<_>>(), vec![0.0; out.storage_len()]);
    let c = out.channels;
    let seen = |(j, raw): (usize, &f32)| activated(got[j % c] * raw + got[c + j % c], slope);
    got[2 * c..].iter().enumerate().map(seen).collect()
}

/// Largest difference relative to the largest value; padded channels must be zero.
fn deviation(what: &str, got: &[Vec<f32>], expected: &[Vec<f32>], channels: usize) -> f32 {
    assert_eq!(got.len(), expected.len(), "{what}: samples");
    let (mut largest, mut difference) = (0f32, 0f32);
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.len() / padded(channels), expected.len() / channels, "{what}: voxels");
        for (got, expected) in got.chunks(padded(channels)).zip(expected.chunks(channels)) {
            assert!(
                got[channels..].iter().all(|&v| v == 0.0),
                "{what}: padded channels {:?}",
                &got[channels..]
            );
            for (g, e) in got.iter().zip(expected) {
                assert!(g.is_finite(), "{what}: {g} for {e}");
                largest = largest.max(e.abs());
                difference = difference.max((g - e).abs());
            }
        }
    }
    assert!(largest > 0.0, "{what}: nothing but zeros proves nothing");
    difference / largest
}
