//! The golden cases of nnU-Net on the GPU: one tile, mean logits, labels and probability.

use crate::device::{Child, open_gpu, show_measured};
use crate::golden::{
    Golden, Sample, cases, channels, differing_labels, heads_first, integers, logit_differences, near_ties,
    open_model, preprocess,
};
use ndarray::Array3;
use pdac_cascade::nnunet::export::{Decision, Segmentation, SegmentationRequest, segment};
use pdac_cascade::nnunet::model_folder::ModelFolder;
use pdac_cascade::nnunet::predictor::{Logits, PredictOptions, Predictor, Preprocessed, SharedScan};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::{Arithmetic, Cuda, CudaPrecision};
use std::time::Instant;

/// What may differ; logits in float16 that are larger than 10 in proportion.
struct Allowed {
    /// Of one tile's run.
    tile: f32,
    /// Means over runs.
    logits: f32,
    probability: f32,
    /// Of 10,000.
    labels: usize,
}

/// Cases that take long, and the variable that asks for them too.
const LARGE: [&str; 5] = [
    "lesion-thick-flipped",
    "lesion-thin-oblique",
    "pancreas-unresampled",
    "residual-coronal",
    "residual-torch-thick",
];
const ALL: &str = "PDAC_TEST_ALL_CASES";

const SINGLE: Allowed = Allowed { tile: 1e-3, logits: 1e-3, probability: 1e-3, labels: 1 };
/// Folds that are run in float16, whose results are compared with the CPU's: more take only time.
const MOST_HALF_FOLDS: usize = 2;
const HALF: Allowed = Allowed { tile: 5e-2, logits: 2e-2, probability: 1e-2, labels: 5 };

#[test]
fn float32_networks_agree_with_nnunet() {
    run_in_child("f32");
}

#[test]
fn float16_networks_agree_with_the_cpu() {
    run_in_child("f16");
}

fn run_in_child(precision: &str) {
    let child = Child::inner("networks::networks_in_a_child").with("PDAC_TEST_PRECISION", precision);
    // Algorithms are measured with as much memory as there is, which takes the software device its time.
    let child = child.device("memory=100000000");
    show_measured(&child.passes());
}

#[test]
#[ignore = "runs on the software device, as a child of the two above"]
fn networks_in_a_child() {
    let gpu = open_gpu();
    let (mut half_logits, mut shared) = (0, 0);
    for folder in cases("nnunet", 12) {
        if LARGE.iter().any(|large| folder.ends_with(large)) && std::env::var_os(ALL).is_none() {
            eprintln!("measured: {} is skipped: {ALL} is not set", folder.display());
            continue;
        }
        let mut case = GoldenCase::open(&folder, gpu);
        case.check_tile();
        case.check_logits();
        // Of those with such logits the one of the smallest network.
        if case.golden.info.get("half_logits").is_some() && case.golden.info["model"] == "transpose" {
            case.check_half_accumulation();
            half_logits += 1;
        }
        if case.golden.info["model"].as_str().unwrap().starts_with("demo-panther") {
            case.check_shared_scan();
            shared += 1;
        }
        case.check_segmentation();
    }
    assert!(shared >= 1, "no scan was shared");
    assert_eq!(half_logits, 1);
}

fn allowed(gpu: Cuda) -> Allowed {
    match gpu.precision() {
        CudaPrecision::F16 => HALF,
        CudaPrecision::F32 => SINGLE,
    }
}

pub fn options(gpu: Option<Cuda>, accumulate: Accumulate) -> PredictOptions {
    PredictOptions {
        step: 0.5,
        mirroring: true,
        folds: None,
        accumulate,
        arithmetic: Arithmetic::detect(),
        gpu,
    }
}

/// Largest difference, and the largest magnitude of what is expected.
pub fn largest_difference(got: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), expected.len());
    let difference = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
    assert!(got.iter().all(|v| v.is_finite()), "not a number");
    (difference, expected.iter().map(|v| v.abs()).fold(0.0, f32::max))
}

struct GoldenCase {
    golden: Golden,
    name: String,
    model: ModelFolder,
    scan: Preprocessed,
    gpu: Cuda,
    allowed: Allowed,
    /// Of the CPU.
    logits: Logits,
}

impl GoldenCase {
    fn open(folder: &std::path::Path, gpu: Cuda) -> Self {
        let golden = Golden::open(folder);
        let mut model = open_model(&golden);
        if gpu.precision() == CudaPrecision::F16 {
            model.folds.truncate(MOST_HALF_FOLDS);
        }
        let scan = preprocess(&golden, &model);
        let predictor = Predictor::new(&model, options(None, Accumulate::Float32)).unwrap();
        let logits = predictor.logits(&mut scan.clone(), &|_| true).unwrap();
        let name = format!("{}, {}", golden.name(), gpu.precision());
        Self { golden, name, model, scan, gpu, allowed: allowed(gpu), logits }
    }

    fn predictor(&self, gpu: Option<Cuda>, accumulate: Accumulate) -> Predictor<'_> {
        Predictor::new(&self.model, options(gpu, accumulate)).unwrap()
    }

    /// float16 has eleven bits whatever the magnitude.
    fn scale(&self, largest: f32) -> f32 {
        match self.gpu.precision() {
            CudaPrecision::F16 => (largest / 10.0).max(1.0),
            CudaPrecision::F32 => 1.0,
        }
    }

    /// Whether nnU-Net's own results are compared with.
    fn is_whole(&self) -> bool {
        self.model.folds.len() == integers(&self.golden.info["folds"]).len()
    }

    fn check_tile(&self) {
        let patch = self.model.configuration.patch_size;
        let below: [isize; 3] =
            std::array::from_fn(|a| -((patch[a].saturating_sub(self.scan.shape()[a]) / 2) as isize));
        let tile = |gpu| {
            let predictor = self.predictor(gpu, Accumulate::Float32);
            predictor.raw_tile(self.scan.clone(), below).unwrap()
        };
        let (got, on_cpu) = (tile(Some(self.gpu)), tile(None));
        self.check_difference("one tile's logits", &got, &on_cpu, self.allowed.tile);
        let heads = got.len() / patch.iter().product::<usize>();
        let shape = [&[heads], patch.as_slice()].concat();
        let golden = self.golden.sample("tile_output");
        let difference = golden.largest_difference(&shape, heads_first(&got, patch, heads));
        let tolerance = self.allowed.tile * self.scale(largest_of(&golden));
        assert!(difference <= tolerance, "{}: one tile differs by {difference} from nnU-Net's", self.name);
    }

    fn check_difference(&self, what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
        let (difference, largest) = largest_difference(got, expected);
        eprintln!("measured: {}: {what} up to {largest:.1} differ by {difference:.1e}", self.name);
        assert!(
            difference <= tolerance * self.scale(largest),
            "{}: {what} differ by {difference}",
            self.name
        );
    }

    fn check_logits(&self) {
        let predictor = self.predictor(Some(self.gpu), Accumulate::Float32);
        let got = predictor.logits(&mut self.scan.clone(), &|_| true).unwrap();
        let [got_values, expected] = [&got, &self.logits].map(|l| l.values.as_slice().unwrap());
        self.check_difference("mean logits", got_values, expected, self.allowed.logits);
        if !self.is_whole() {
            return;
        }
        let difference = logit_differences(&self.golden, "logits", &got).into_iter().fold(0.0, f32::max);
        let tolerance = self.allowed.logits * self.scale(largest_of(&self.golden.sample("logits")));
        assert!(difference <= tolerance, "{}: logits differ by {difference} from nnU-Net's", self.name);
        self.check_labels(&got);
    }

    /// Labels of nnU-Net, from the GPU's mean logits.
    fn check_labels(&self, logits: &Logits) {
        let labels = segment(&self.model, self.scan.grid(), logits, SegmentationRequest::default()).labels;
        self.check_clear_labels(&labels, &self.golden.labels("labels.mha"), &self.logits);
    }

    fn check_clear_labels(&self, got: &Array3<u16>, expected: &Array3<u16>, logits: &Logits) {
        let ties = near_ties(&self.model, &self.scan, logits, self.allowed.logits);
        let differing = differing_labels(&self.name, got, expected, self.allowed.labels);
        let clear = differing.iter().find(|&&at| !ties[at]);
        assert!(clear.is_none(), "{}: label differs at {clear:?}, which is no near tie", self.name);
        assert!(expected.iter().any(|&label| label != 0), "{}: no labels", self.name);
        eprintln!("measured: {}: {} of {} labels differ", self.name, differing.len(), expected.len());
    }

    /// From the stored values on, which the GPU normalises and resamples, to labels and a head's probability: of one fold and
    /// tiles side by side.
    fn check_segmentation(&mut self) {
        self.model.folds.truncate(1);
        let heads = self.logits.values.dim().3;
        let new = |gpu| {
            let options = PredictOptions { step: 1.0, ..options(gpu, Accumulate::Float32) };
            Predictor::new(&self.model, options).unwrap()
        };
        let (on_cpu, on_gpu) = (new(None), new(Some(self.gpu)));
        let logits = on_cpu.logits(&mut self.scan.clone(), &|_| true).unwrap();
        for (head, decision) in [(heads - 1, Decision::Probabilities), (0, Decision::Logits)] {
            let request = SegmentationRequest { decision, probability_of: Some(head) };
            let (channels, spacing) = channels(&self.golden);
            let got = on_gpu.segment(channels, spacing, request, &|_| true).unwrap();
            let expected = segment(&self.model, self.scan.grid(), &logits, request);
            self.check_probability(&got, &expected);
            self.check_clear_labels(&got.labels, &expected.labels, &logits);
        }
    }

    /// A scan that several members of an ensemble share, which each prepares on the GPU, and the time of one run.
    fn check_shared_scan(&self) {
        let (channels, spacing) = channels(&self.golden);
        let scan = SharedScan::new(&self.model, channels, spacing).unwrap();
        let logits = |gpu| self.predictor(gpu, Accumulate::Float32).logits_of(&scan, &|_| true).unwrap();
        let (got, expected) = (logits(Some(self.gpu)), logits(None));
        assert_eq!(got.values.dim(), expected.values.dim());
        let slices = [&got, &expected].map(|logits| logits.values.as_slice().unwrap());
        let (difference, largest) = largest_difference(slices[0], slices[1]);
        eprintln!("measured: {}: logits of a shared scan differ by {difference:.1e}", self.name);
        assert!(difference <= self.allowed.logits * self.scale(largest), "{}: {difference}", self.name);
        let began = Instant::now();
        let time = self.predictor(Some(self.gpu), Accumulate::Float32).time_run(&|| began.elapsed()).unwrap();
        assert!(!time.is_zero() && time < began.elapsed(), "{time:?}");
    }

    fn check_probability(&self, got: &Segmentation, expected: &Segmentation) {
        let [got, expected] = [got, expected].map(|s| s.probability.as_ref().unwrap());
        assert_eq!(got.dim(), expected.dim(), "{}", self.name);
        let (difference, _) = largest_difference(got.as_slice().unwrap(), expected.as_slice().unwrap());
        eprintln!("measured: {}: probability differs by {difference:.1e}", self.name);
        assert!(difference <= self.allowed.probability, "{}: probability by {difference}", self.name);
    }

    /// Sums in float16: a step flips where the sums before it differ in the last bit, so elements are counted.
    fn check_half_accumulation(&self) {
        let logits = |gpu| {
            let predictor = self.predictor(gpu, Accumulate::Float16);
            predictor.logits(&mut self.scan.clone(), &|_| true).unwrap()
        };
        let (got, on_cpu) = (logits(Some(self.gpu)), logits(None));
        assert!(got.half, "{}: float16 values", self.name);
        let pairs = got.values.iter().zip(&on_cpu.values);
        let off = pairs.filter(|(a, b)| a != b).count() as f64 / on_cpu.values.len() as f64;
        let golden = logit_differences(&self.golden, "half_logits", &got);
        let off_golden = golden.iter().filter(|d| **d > 0.0).count() as f64 / golden.len() as f64;
        eprintln!(
            "measured: {}: {off:.4} of the logits summed in float16 differ from the CPU's, {off_golden:.4} from nnU-Net's",
            self.name
        );
        match self.gpu.precision() {
            CudaPrecision::F32 => {
                assert!(off < 0.01 && off_golden < 0.01, "{}: {off}, {off_golden}", self.name);
            }
            CudaPrecision::F16 => assert!(off > 0.01, "float16 products should not give float32's sums"),
        }
        let (half, single) = (on_cpu.values.as_slice().unwrap(), self.logits.values.as_slice().unwrap());
        let (of_rounding, largest) = largest_difference(half, single);
        let (difference, _) = largest_difference(got.values.as_slice().unwrap(), single);
        eprintln!(
            "measured: {}: which differ by {difference:.1e} from float32's, the CPU's by {of_rounding:.1e}",
            self.name
        );
        assert!(
            difference <= of_rounding * 1.5 + self.allowed.logits * self.scale(largest),
            "{}: {difference}",
            self.name
        );
    }
}

fn largest_of(sample: &Sample) -> f32 {
    sample.values.iter().map(|v| v.abs()).fold(0.0, f32::max)
}
