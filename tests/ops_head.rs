//! The segmentation head with its sums, and the residual sum, against naive ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stored_values;

use candle_core::{DType, Device, Tensor};
use half::f16;
use pdac_cascade::ops::{
    AccumulateLogits, AccumulateTile, AddLogits, Arithmetic, Mirroring, Operand, ResidualAdd,
    SegmentationHead, ValueShape,
};
use proptest::prelude::*;
use stored_values::{computed, noise, value};

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn zeros(n: usize, dtype: DType) -> Tensor {
    Tensor::zeros(n, dtype, &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// A head over random features, and the logits that it should give.
struct Case {
    features: Tensor,
    operand: Operand,
    weight: Tensor,
    bias: Tensor,
    logits: Vec<f64>,
}

impl Case {
    fn new(dims: [usize; 3], channels: usize, classes: usize, seed: u64) -> Self {
        let operand = Operand { shape: ValueShape { dims, channels }, negative_slope: 0.01 };
        let (features, seen) = value(operand, seed);
        let (weight, bias) = (noise(seed + 1, classes * channels), noise(seed + 2, classes));
        let logit = |voxel: &[f32], o: usize| {
            let row = &weight[o * channels..][..channels];
            voxel.iter().zip(row).fold(f64::from(bias[o]), |s, (&v, &w)| s + f64::from(v) * f64::from(w))
        };
        let logits = seen.chunks(channels).flat_map(|v| (0..classes).map(move |o| (v, o)));
        let logits = logits.map(|(v, o)| logit(v, o)).collect();
        let weight = Tensor::from_slice(&weight, (classes, channels, 1, 1, 1), &Device::Cpu).unwrap();
        Self { features, operand, weight, bias: tensor(&bias), logits }
    }

    fn head(&self, arithmetic: Arithmetic) -> SegmentationHead {
        SegmentationHead::new(self.operand, &self.weight, Some(&self.bias), arithmetic).unwrap()
    }

    /// The logit of a class at a voxel of the tile before it was mirrored.
    fn logit(&self, at: [usize; 3], class: usize, mirroring: Mirroring) -> f64 {
        let dims = self.operand.shape.dims;
        let [z, y, x]: [usize; 3] =
            std::array::from_fn(|a| if mirroring[a] { dims[a] - 1 - at[a] } else { at[a] });
        let classes = self.bias.elem_count();
        self.logits[((z * dims[1] + y) * dims[2] + x) * classes + class]
    }
}

fn voxels([d, h, w]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..d * h * w).map(move |i| [i / w / h, i / w % h, i % w])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn logits_are_added_where_they_belong(
        dims in (1usize..5, 1usize..6, 1usize..40),
        channels in prop_oneof![Just(1), Just(3), Just(8), Just(32), Just(40)],
        classes in 1usize..10,
        mirroring in (any::<bool>(), any::<bool>(), any::<bool>()),
        seed in 1u64..1000,
    ) {
        let (dims, mirroring): ([usize; 3], Mirroring) = (dims.into(), mirroring.into());
        let case = Case::new(dims, channels, classes, seed);
        for arithmetic in Arithmetic::available() {
            let head = case.head(arithmetic);
            let before = noise(seed + 3, head.logits().data_len());
            for first in [true, false] {
                let sum = tensor(&before);
                sum.inplace_op2(&case.features, &AddLogits { head: &head, mirroring, first }).unwrap();
                let got = sum.to_vec1::<f32>().unwrap();
                for (i, at) in voxels(dims).enumerate() {
                    for class in 0..classes {
                        let old = if first { 0.0 } else { f64::from(before[i * classes + class]) };
                        let expected = old + case.logit(at, class, mirroring);
                        let off = (f64::from(got[i * classes + class]) - expected).abs();
                        prop_assert!(off < 2e-5, "{arithmetic}: {at:?} class {class} off by {off}");
                    }
                }
            }
        }
    }

    /// The same bits as a sum over all mirrorings that is accumulated afterwards, also where the tile leaves the image.
    #[test]
    fn accumulating_logits_is_adding_them_and_accumulating_the_sum(
        dims in (1usize..5, 1usize..6, 1usize..20),
        image in (1usize..6, 1usize..8, 1usize..22),
        start in (-3isize..4, -3isize..4, -3isize..4),
        mirroring in (any::<bool>(), any::<bool>(), any::<bool>()),
        classes in 1usize..8,
        half in any::<bool>(),
        alone in any::<bool>(),
        seed in 1u64..1000,
    ) {
        let (image_dims, start, mirroring): ([usize; 3], [isize; 3], Mirroring) =
            (image.into(), start.into(), mirroring.into());
        let case = Case::new(dims.into(), 8, classes, seed);
        let head = case.head(Arithmetic::detect());
        let tile = head.logits();
        let others = tensor(&noise(seed + 3, tile.data_len()));
        let weights = tensor(&noise(seed + 4, tile.voxels()));
        let before = tensor(&noise(seed + 5, image_dims.iter().product::<usize>() * classes));
        let dtype = if half { DType::F16 } else { DType::F32 };
        let total = || before.to_dtype(dtype).unwrap().copy().unwrap();
        let predictions = if alone { 1 } else { 4 };
        let (fused, apart) = (total(), total());
        let other = (!alone).then_some(&others);
        let op = AccumulateLogits { head: &head, mirroring, others: other, image_dims, start, predictions };
        fused.inplace_op3(&case.features, &weights, &op).unwrap();
        let sum = others.copy().unwrap();
        sum.inplace_op2(&case.features, &AddLogits { head: &head, mirroring, first: alone }).unwrap();
        let op = AccumulateTile { image_dims, start, tile, predictions };
        apart.inplace_op3(&sum, &weights, &op).unwrap();
        prop_assert_eq!(bits(&fused), bits(&apart));
    }

    #[test]
    fn the_residual_sum_equals_the_naive_one(
        dims in (1usize..4, 1usize..6, 1usize..40),
        channels in prop_oneof![Just(1), Just(3), Just(8), Just(33), Just(320)],
        slopes in (prop_oneof![Just(1.0f32), Just(0.1)], prop_oneof![Just(1.0f32), Just(0.01)]),
        negative_slope in prop_oneof![Just(1.0f32), Just(0.01)],
        seed in 1u64..1000,
    ) {
        let shape = ValueShape { dims: dims.into(), channels };
        let operands = [slopes.0, slopes.1].map(|negative_slope| Operand { shape, negative_slope });
        let (a, seen_a) = value(operands[0], seed);
        let (b, seen_b) = value(operands[1], seed + 1);
        for arithmetic in Arithmetic::available() {
            let op = ResidualAdd::new(operands, negative_slope, arithmetic).unwrap();
            let got = computed(&op, &[&a, &b], noise(seed + 2, shape.storage_len()));
            prop_assert!(got[..channels].iter().all(|&s| s == 1.0));
            prop_assert!(got[channels..2 * channels].iter().all(|&s| s == 0.0));
            for ((g, a), b) in got[2 * channels..].iter().zip(&seen_a).zip(&seen_b) {
                let sum = a + b;
                let expected = if sum >= 0.0 { sum } else { sum * negative_slope };
                prop_assert!((g - expected).abs() < 1e-6, "{arithmetic}: {g}, expected {expected}");
            }
        }
    }
}

#[test]
fn sums_round_to_float16_after_every_addition() {
    let case = Case::new([1, 1, 1], 1, 1, 5);
    let head = case.head(Arithmetic::detect());
    let total = tensor(&[2048.0]).to_dtype(DType::F16).unwrap();
    let op = AccumulateLogits {
        head: &head,
        mirroring: [false; 3],
        others: None,
        image_dims: [1; 3],
        start: [0; 3],
        predictions: 1,
    };
    let logit = case.logits[0] as f32;
    let weight = 0.75 / logit;
    for _ in 0..4 {
        total.inplace_op3(&case.features, &tensor(&[weight]), &op).unwrap();
    }
    assert_eq!(total.to_vec1::<f16>().unwrap(), [f16::from_f32(2048.0)]);
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let case = Case::new([2, 2, 2], 3, 2, 1);
    let wide = Operand { shape: ValueShape { channels: 4, ..case.operand.shape }, ..case.operand };
    let message = |e: candle_core::Error| e.to_string();
    let head = SegmentationHead::new(wide, &case.weight, None, Arithmetic::detect());
    let text = head.err().map(message).unwrap();
    assert!(text.contains("weight has shape [2, 3, 1, 1, 1], expected [classes, 4, 1, 1, 1]"), "{text}");
    let sum = ResidualAdd::new([wide, case.operand], 0.01, Arithmetic::detect());
    assert!(sum.err().map(message).unwrap().contains("expected one shape"));
    let head = case.head(Arithmetic::detect());
    let op = AddLogits { head: &head, mirroring: [false; 3], first: true };
    let text = zeros(15, DType::F32).inplace_op2(&case.features, &op).err().map(message).unwrap();
    assert!(text.contains("sum holds 15 floats, expected 16"), "{text}");
}

#[test]
fn results_are_the_same_bits_at_any_number_of_threads() {
    let case = Case::new([5, 13, 20], 24, 7, 9);
    let head = case.head(Arithmetic::detect());
    let (tile, shape) = (head.logits(), case.operand.shape);
    let sum_op = ResidualAdd::new([case.operand; 2], 0.01, Arithmetic::detect()).unwrap();
    let weights = tensor(&noise(3, tile.voxels()));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (sum, total) = (zeros(tile.data_len(), DType::F32), zeros(7 * 9 * 14 * 30, DType::F32));
        let residual = pool.install(|| {
            let mirroring = [true, false, true];
            sum.inplace_op2(&case.features, &AddLogits { head: &head, mirroring, first: true }).unwrap();
            let (image_dims, start) = ([9, 14, 30], [3, -2, 4]);
            let others = Some(&sum);
            let op = AccumulateLogits { head: &head, mirroring, others, image_dims, start, predictions: 2 };
            total.inplace_op3(&case.features, &weights, &op).unwrap();
            computed(&sum_op, &[&case.features; 2], vec![0.0; shape.storage_len()])
        });
        [bits(&sum), bits(&total), bits(&tensor(&residual))]
    };
    let one = run(1);
    assert!(one.iter().all(|b| b.iter().any(|&b| b != 0)));
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}
