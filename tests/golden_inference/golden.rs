//! Reading golden files and comparing with them.

use ndarray::Array3;
use pdac_cascade::imaging::Voxels;
use pdac_cascade::imaging::file::read_image;
use pdac_cascade::nnunet::dataset::OutputKind;
use pdac_cascade::nnunet::export::for_each_slab;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::{Logits, Preprocessed};
use pdac_cascade::nnunet::preprocessing::transpose;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PANTHER: &str = "nnUNetTrainer1e3__nnUNetResEncUNetLPlansPancCTMultiTalentV2__3d_fullres_iso1x1x1";

/// Folders of the cases of one kind, by name; fails if there are fewer than `at_least`.
pub fn cases(kind: &str, at_least: usize) -> Vec<PathBuf> {
    let folder = Path::new(ROOT).join("tests/golden").join(kind);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= at_least, "{kind}: only {} golden cases", cases.len());
    cases
}

/// One golden case: numbers in JSON, samples of arrays in safetensors.
pub struct Golden {
    pub folder: PathBuf,
    pub info: Value,
    bytes: Vec<u8>,
}

/// Every `stride`-th element of a flattened array.
pub struct Sample {
    pub shape: Vec<usize>,
    pub stride: usize,
    pub values: Vec<f32>,
}

impl Golden {
    pub fn open(folder: &Path) -> Self {
        let info = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        Self { folder: folder.to_owned(), info, bytes }
    }

    pub fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub fn sample(&self, name: &str) -> Sample {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        let values = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let shape = integers(&self.info[name]["shape"]);
        Sample { shape, stride: self.info[name]["stride"].as_u64().unwrap() as usize, values }
    }

    pub fn labels(&self, file: &str) -> Array3<u16> {
        match read_image(&self.folder.join(file)).unwrap().voxels {
            Voxels::U8(labels) => labels.mapv(u16::from),
            Voxels::U16(labels) => labels,
            other => panic!("{file}: labels of type {}", other.type_name()),
        }
    }
}

impl Sample {
    /// Largest difference to the sampled elements of the array `got(flat index)`; shapes must agree.
    pub fn largest_difference(&self, shape: &[usize], got: impl Fn(usize) -> f32) -> f32 {
        self.differences(shape, got).into_iter().fold(0.0, f32::max)
    }

    /// All differences to the sampled elements.
    pub fn differences(&self, shape: &[usize], got: impl Fn(usize) -> f32) -> Vec<f32> {
        assert_eq!(self.shape, shape, "shapes differ");
        assert!(self.values.len() > 10, "an empty sample proves nothing");
        self.values.iter().enumerate().map(|(i, v)| (v - got(i * self.stride)).abs()).collect()
    }
}

pub fn integers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

/// Where labels differ: at most so many voxels in 10,000.
pub fn differing_labels(
    name: &str,
    got: &Array3<u16>,
    expected: &Array3<u16>,
    at_most: usize,
) -> Vec<(usize, usize, usize)> {
    assert_eq!(got.shape(), expected.shape(), "{name}: shape of the labels");
    let differing: Vec<_> =
        got.indexed_iter().filter(|(at, label)| **label != expected[*at]).map(|(at, _)| at).collect();
    assert!(
        differing.len() * 10_000 <= at_most * got.len(),
        "{name}: {} of {} labels differ",
        differing.len(),
        got.len()
    );
    differing
}

fn model_path(name: &str) -> PathBuf {
    let weights = Path::new(ROOT).join("weights");
    let baseline = Path::new(ROOT).join("tests/golden/baseline/panorama");
    match name {
        "demo-panther-t1-expert_0" => weights.join("panther-t1/expert_0/Dataset901_PANTHER").join(PANTHER),
        "demo-panther-t2-expert_1" => {
            weights.join("panther-t2/expert_1/Dataset902_PANTHER_HR_torchres").join(PANTHER)
        }
        "demo-pancreas" => baseline
            .join("Dataset103_PANORAMA_baseline_Pancreas_Segmentation/nnUNetTrainer__nnUNetPlans__3d_fullres"),
        "demo-lesion" => baseline.join(
            "Dataset104_PANORAMA_baseline_PDAC_Detection/nnUNetTrainer_Loss_CE_checkpoints__nnUNetPlans__3d_fullres",
        ),
        variant => Path::new(ROOT).join("tests/golden/models").join(variant),
    }
}

/// The model of a case, with the folds and the checkpoint that the case was made with.
pub fn open_model(golden: &Golden) -> ModelFolder {
    let folds: Vec<Fold> =
        integers(&golden.info["folds"]).into_iter().map(|k| Fold::Number(k as u32)).collect();
    let path = model_path(golden.info["model"].as_str().unwrap());
    ModelFolder::open(&path, &folds, golden.info["checkpoint"].as_str().unwrap()).unwrap()
}

/// The channels of a case's scan as they are stored, and its spacing.
pub fn channels(golden: &Golden) -> (Vec<Array3<f32>>, [f64; 3]) {
    let files = golden.info["files"].as_array().unwrap();
    let images: Vec<_> = files
        .iter()
        .map(|f| read_image(&golden.folder.join(f.as_str().unwrap())).unwrap().into_f32_volume())
        .collect();
    let spacing = images[0].geometry.spacing;
    (images.into_iter().map(|v| v.data).collect(), spacing)
}

/// The scan of a case as the network sees it.
pub fn preprocess(golden: &Golden, model: &ModelFolder) -> Preprocessed {
    let (channels, spacing) = channels(golden);
    Preprocessed::new(model, channels, spacing).unwrap()
}

/// One (z, y, x, heads) array as nnU-Net flattens it: heads first.
pub fn heads_first(values: &[f32], [d, h, w]: [usize; 3], heads: usize) -> impl Fn(usize) -> f32 {
    let voxels = d * h * w;
    move |i| values[i % voxels * heads + i / voxels]
}

/// Differences of logits to the sample `key`.
pub fn logit_differences(golden: &Golden, key: &str, logits: &Logits) -> Vec<f32> {
    let (d, h, w, heads) = logits.values.dim();
    let got = heads_first(logits.values.as_slice().unwrap(), [d, h, w], heads);
    golden.sample(key).differences(&[heads, d, h, w], got)
}

/// Where the two best logits on the scan's grid are closer than `tolerance`.
pub fn near_ties(model: &ModelFolder, scan: &Preprocessed, logits: &Logits, tolerance: f32) -> Array3<bool> {
    let kind = &model.dataset.output;
    let mut ties = Array3::from_elem(scan.full_shape, false);
    for_each_slab(model, scan.grid(), logits, |range, slab| {
        for (z, slice) in range.zip(slab.outer_iter()) {
            for ((y, x), tie) in slice
                .map_axis(ndarray::Axis(2), |voxel| is_tie(kind, voxel.as_slice().unwrap(), tolerance))
                .indexed_iter()
            {
                let start = scan.crop.start;
                ties[(z + start[0], y + start[1], x + start[2])] = *tie;
            }
        }
    });
    transpose(ties, model.transpose_backward)
}

/// Softmax heads that are nearly equal, or a region's head near its threshold.
fn is_tie(kind: &OutputKind, logits: &[f32], tolerance: f32) -> bool {
    if matches!(kind, OutputKind::Regions { .. }) {
        return logits.iter().any(|v| v.abs() < tolerance);
    }
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted[0] - sorted[1] < tolerance
}
