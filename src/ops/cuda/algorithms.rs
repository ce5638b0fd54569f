//! Which of cuDNN's algorithms a convolution is computed with: measured once for every shape, and remembered.
//!
//! The file is a cache: whatever in it cannot be used is measured again, and a file that cannot be read or written is as good
//! as none.

use crate::ops::CudaPrecision;
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionFwdAlgo_t as Algorithm, cudnnMathType_t as Math,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Larger files are none of ours.
const LARGEST_FILE: u64 = 4 << 20;

/// An algorithm and the workspace that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// cuDNN's number of the algorithm.
    algorithm: u32,
    /// cuDNN's number of the kind of arithmetic.
    math: u32,
    /// Bytes of workspace.
    pub workspace: usize,
}

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
    Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
];

const MATHS: [Math; 4] = [
    Math::CUDNN_DEFAULT_MATH,
    Math::CUDNN_TENSOR_OP_MATH,
    Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    Math::CUDNN_FMA_MATH,
];

impl Choice {
    pub fn new(algorithm: Algorithm, math: Math, workspace: usize) -> Self {
        Self { algorithm: algorithm as u32, math: math as u32, workspace }
    }

    /// The same with another workspace.
    pub fn with_workspace(self, workspace: usize) -> Self {
        Self { workspace, ..self }
    }

    pub fn algorithm(&self) -> Option<Algorithm> {
        ALGORITHMS.into_iter().find(|&a| a as u32 == self.algorithm)
    }

    pub fn math(&self) -> Math {
        let found = MATHS.into_iter().find(|&m| m as u32 == self.math);
        found.unwrap_or(Math::CUDNN_TENSOR_OP_MATH)
    }

    /// Whether its results are as exact as the elements are: transforms in float16 are not.
    pub fn is_precise(&self, precision: CudaPrecision) -> bool {
        let transforms = self.algorithm >= Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_FFT as u32;
        self.algorithm().is_some() && (precision == CudaPrecision::F32 || !transforms)
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    /// GPU and library that the choices are for, then shape by shape.
    devices: BTreeMap<String, BTreeMap<String, Choice>>,
}

/// The choices for one GPU, library and precision.
#[derive(Debug)]
pub(super) struct Algorithms {
    device: String,
    /// What this process has run.
    chosen: BTreeMap<String, Choice>,
    /// What the file holds, or is to hold.
    remembered: BTreeMap<String, Choice>,
    file: Option<PathBuf>,
    changed: bool,
}

impl Algorithms {
    /// The choices for `device` that `file` remembers.
    pub fn open(device: String, file: Option<PathBuf>) -> Self {
        let mut found = file.as_deref().map(read).unwrap_or_default();
        let remembered = found.devices.remove(&device).unwrap_or_default();
        Self { device, chosen: BTreeMap::new(), remembered, file, changed: false }
    }

    /// The choice for a shape that this process has run.
    pub fn chosen(&self, shape: &str) -> Option<Choice> {
        self.chosen.get(shape).copied()
    }

    /// The choice for a shape that was remembered, and may not do any more.
    pub fn remembered(&self, shape: &str) -> Option<Choice> {
        self.remembered.get(shape).copied()
    }

    /// Takes down the choice for a shape, for this process.
    pub fn choose(&mut self, shape: String, choice: Choice) {
        self.chosen.insert(shape, choice);
    }

    /// Takes down the choice for a shape, for others too.
    pub fn remember(&mut self, shape: String, choice: Choice) {
        self.changed = true;
        self.remembered.insert(shape, choice);
    }

    /// Writes what has changed, beside what other processes have written meanwhile.
    pub fn save(&mut self) {
        let Some(file) = self.file.as_deref().filter(|_| self.changed) else { return };
        self.changed = false;
        let mut remembered = read(file);
        remembered.devices.entry(self.device.clone()).or_default().extend(self.remembered.clone());
        if let Err(error) = write(file, &remembered) {
            tracing::debug!("{}: convolution algorithms are not remembered: {error}", file.display());
        }
    }
}

fn read(file: &Path) -> Remembered {
    // Opening a pipe would wait for its other end.
    if !fs::metadata(file).is_ok_and(|found| found.is_file()) {
        return Remembered::default();
    }
    let mut text = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn write(file: &Path, remembered: &Remembered) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut whole = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut whole, remembered)?;
    whole.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(algorithm: u32) -> Choice {
        Choice { algorithm, math: 1, workspace: 7 }
    }

    #[test]
    fn choices_are_remembered_for_their_device_beside_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("algorithms.json");
        for (device, algorithm) in [("a", 1), ("b", 0)] {
            let mut algorithms = Algorithms::open(device.to_owned(), Some(file.clone()));
            assert_eq!(algorithms.remembered("shape"), None);
            algorithms.remember("shape".to_owned(), choice(algorithm));
            algorithms.save();
        }
        let of = |device: &str| Algorithms::open(device.to_owned(), Some(file.clone())).remembered("shape");
        assert_eq!((of("a"), of("b"), of("c")), (Some(choice(1)), Some(choice(0)), None));
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("algorithms.json");
        for text in ["", "[]", "{\"devices\": 3}", "\u{0}\u{1}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(Algorithms::open("a".to_owned(), Some(file.clone())).remembered("shape"), None);
        }
        assert_eq!(
            Algorithms::open("a".to_owned(), Some(folder.path().to_owned())).remembered("shape"),
            None
        );
        let mut algorithms = Algorithms::open("a".to_owned(), Some(PathBuf::from("/proc/none/a.json")));
        algorithms.remember("shape".to_owned(), choice(0));
        algorithms.save();
    }

    #[test]
    fn transforms_in_half_precision_and_unknown_algorithms_are_not_used() {
        let precise = |algorithm, precision| choice(algorithm).is_precise(precision);
        assert!(precise(1, CudaPrecision::F16) && precise(7, CudaPrecision::F32));
        assert!(!precise(7, CudaPrecision::F16) && !precise(8, CudaPrecision::F32));
    }
}
