//! Every kind of resampling, on a quarter of a usual CT: elements are output voxels (times heads for logits).

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{Array3, Array4};
use pdac_cascade::imaging::resampling::{AxisOperator, apply};
use pdac_cascade::nnunet::dataset::OutputKind;
use pdac_cascade::nnunet::export::{SegmentationRequest, segment_resampled};
use pdac_cascade::nnunet::preprocessing::BoundingBox;
use pdac_cascade::nnunet::resampling::{Resampling, SlabResampler, resample_image};
use std::time::Duration;

/// Voxels (z, y, x) before and after.
const FROM: [usize; 3] = [100, 256, 512];
const TO: [usize; 3] = [67, 273, 546];

type Constructor = fn(usize, usize) -> AxisOperator;

/// A constructor of each kind of operator.
const KINDS: [(&str, Constructor); 6] = [
    ("nearest", AxisOperator::nearest),
    ("linear", AxisOperator::linear),
    ("cubic", AxisOperator::cubic),
    ("torch_nearest", AxisOperator::torch_nearest),
    ("torch_linear", AxisOperator::torch_linear),
    ("itk_bspline", |n_in, n_out| AxisOperator::itk_bspline(n_in, n_out, n_in as f64 / n_out as f64)),
];

fn volume(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| ((z * 31 + y * 7 + x * 3) % 101) as f32 - 50.0)
}

fn operators(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("operators");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    group.throughput(Throughput::Elements(TO.iter().product::<usize>() as u64));
    let data = volume(FROM);
    for (name, make) in KINDS {
        let operators = [0, 1, 2].map(|axis| make(FROM[axis], TO[axis]));
        group.bench_function(name, |b| b.iter(|| apply(data.view(), &operators)));
    }
    for axis in 0..3 {
        let mut operators = FROM.map(AxisOperator::identity);
        operators[axis] = AxisOperator::cubic(FROM[axis], TO[axis]);
        let name = format!("cubic along {}", ["z", "y", "x"][axis]);
        group.bench_function(name, |b| b.iter(|| apply(data.view(), &operators)));
    }
    group.finish();
}

/// As the preprocessor and the export call them.
fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stages");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    group.throughput(Throughput::Elements(TO.iter().product::<usize>() as u64));
    let data = volume(FROM);
    let cubic = Resampling::from_orders(3, 0, None).unwrap();
    let resample = |data| resample_image(data, TO, [1.0; 3], [1.0; 3], &cubic);
    group.bench_function("image", |b| b.iter_batched(|| data.clone(), resample, BatchSize::PerIteration));

    let heads = 7;
    group.throughput(Throughput::Elements((heads * FROM.iter().product::<usize>()) as u64));
    let linear = Resampling::from_orders(1, 0, None).unwrap();
    let logits = Array4::from_shape_fn((TO[0], TO[1], TO[2], heads), |(z, y, x, head)| {
        ((z * 31 + y * 7 + x * 3 + head * 11) % 61) as f32 / 4.0
    });
    let crop = BoundingBox { start: [0; 3], stop: FROM };
    for (name, probability_of) in [("export labels and probability", Some(1)), ("export labels", None)] {
        let request = SegmentationRequest { probability_of, ..Default::default() };
        let resampler =
            SlabResampler::new(logits.view(), FROM, [1.0; 3], [1.0; 3], &linear).round_to_half(true);
        let kind = OutputKind::Labels { classes: heads };
        group.bench_function(name, |b| b.iter(|| segment_resampled(&resampler, &kind, FROM, &crop, request)));
    }
    group.finish();
}

criterion_group!(benches, operators, stages);
criterion_main!(benches);
