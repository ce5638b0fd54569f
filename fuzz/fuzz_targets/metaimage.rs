//! Any bytes as a `.mha` file: an image or an error, never a panic, nor more memory than the bytes can fill.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdac_cascade::imaging::metaimage::decode;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = decode(Path::new("fuzz.mha"), bytes) {
        assert_eq!(image.voxels.shape(), image.geometry.shape);
    }
});
