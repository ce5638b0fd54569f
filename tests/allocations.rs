//! What a tile allocates once the first has run: a few small vectors an operator, nothing of the size of an activation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "a global allocator that counts")]

use ndarray::Array3;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::{PredictOptions, Predictor, Preprocessed};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::Arithmetic;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated, and the largest allocation, since the last call.
fn counted() -> (usize, usize) {
    (BYTES.swap(0, Ordering::Relaxed), LARGEST.swap(0, Ordering::Relaxed))
}

/// One thread: another may take the first task of a layer late, and make its buffer then.
#[test]
fn a_tile_allocates_nothing_of_the_size_of_an_activation() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(check_tiles);
}

fn check_tiles() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/baseline/panorama").join(
        "Dataset104_PANORAMA_baseline_PDAC_Detection/nnUNetTrainer_Loss_CE_checkpoints__nnUNetPlans__3d_fullres",
    );
    let model = ModelFolder::open(&model, &[Fold::Number(0)], "checkpoint_best_panorama").unwrap();
    let [z, y, x] = model.configuration.patch_size;
    let noise = |(z, y, x): (usize, usize, usize)| ((z * 7 + y * 5 + x * 3) % 11) as f32 * 20.0;
    let ct = Array3::from_shape_fn((z, y, 2 * x), noise);
    let smallest_row = 4 * x * model.configuration.network.unet().features[0];
    for mirroring in [false, true] {
        let arithmetic = Arithmetic::detect();
        let options = PredictOptions {
            step: 0.5,
            mirroring,
            folds: None,
            accumulate: Accumulate::Float32,
            arithmetic,
            gpu: None,
        };
        let predictor = Predictor::new(&model, options).unwrap();
        let mut scan = Preprocessed::new(&model, vec![ct.clone()], model.configuration.spacing).unwrap();
        let seen = RefCell::new(Vec::with_capacity(16));
        predictor
            .logits(&mut scan, &|_| {
                seen.borrow_mut().push(counted());
                true
            })
            .unwrap();
        let seen = seen.into_inner();
        println!("mirroring {mirroring}: bytes and largest allocation of each tile: {seen:?}");
        assert_eq!(seen.len(), 3);
        let runs = if mirroring { 8 } else { 1 };
        for (bytes, largest) in &seen[1..] {
            assert!(*largest < smallest_row, "one allocation takes {largest} bytes");
            assert!(*bytes < runs * 1_000_000, "a tile allocates {bytes} bytes");
        }
    }
}
