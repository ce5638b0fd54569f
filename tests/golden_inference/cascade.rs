//! Every stage of the PANORAMA cascade.

use crate::golden::{Golden, ROOT, cases, differing_labels, integers};
use pdac_cascade::challenge::{Case, PANORAMA};
use pdac_cascade::imaging::Volume;
use pdac_cascade::imaging::components::{Components, Connectivity};
use pdac_cascade::imaging::file::read_image;
use pdac_cascade::imaging::resampling::itk_resample_to_spacing;
use pdac_cascade::nnunet::preprocessing::BoundingBox;
use pdac_cascade::pipeline::{ExecutionOptions, Panorama, System, Unobserved};
use std::path::Path;
use std::sync::Arc;

/// HU; a hundredth of what the tolerance of the preprocessed array amounts to.
const LOW_RESOLUTION: f32 = 1e-3;
const PROBABILITY: f32 = 1e-3;

fn check_lesion_stage(golden: &Golden, cascade: &Panorama, ct: &Volume<f32>, roi: &BoundingBox) {
    let name = golden.name();
    let segmentation = cascade.segment_lesion(ct, roi, ExecutionOptions::default(), &Unobserved).unwrap();
    let differing = differing_labels(&name, &segmentation.labels, &golden.labels("lesion_labels.mha"), 1);
    let probability = cascade.masked_probability(segmentation);
    let values = probability.as_slice().unwrap();
    let differences = golden.sample("masked_probability").differences(probability.shape(), |i| values[i]);
    let far = differences.iter().filter(|d| **d > PROBABILITY).count();
    let largest = differences.iter().copied().fold(0.0, f32::max);
    eprintln!("{name}: {} lesion labels differ, masked probability by {largest:.2e}", differing.len());
    // A label that differs moves the mask by up to two voxels.
    assert!(far <= 125 * differing.len(), "{name}: {far} masked probabilities differ by up to {largest}");
}

fn check_detection(golden: &Golden, cascade: &Panorama, ct: &Volume<f32>) {
    let name = golden.name();
    let detection = cascade.run(Arc::new(ct.clone()), ExecutionOptions::default(), &Unobserved).unwrap();
    assert_eq!(detection.map.geometry, ct.geometry, "{name}: geometry of the map");
    if golden.info["exit_code"] == 3 {
        // The baseline stops; we say that there is nothing.
        assert_eq!((detection.likelihood, detection.candidates, detection.roi), (0.0, 0, None), "{name}");
        assert!(detection.map.data.iter().all(|&v| v == 0.0), "{name}: the map is not empty");
        return;
    }
    let likelihood = golden.info["likelihood"].as_f64().unwrap();
    let difference = (detection.likelihood - likelihood).abs();
    eprintln!("{name}: likelihood {likelihood:.4} differs by {difference:.2e}");
    assert!(difference <= 1e-3, "{name}: likelihood {} for {likelihood}", detection.likelihood);
    assert_eq!(
        detection.candidates,
        golden.info["candidates"].as_array().unwrap().len(),
        "{name}: candidates"
    );
    let expected = read_image(&golden.folder.join("detection_map.mha")).unwrap().into_f32_volume();
    assert_eq!(expected.geometry, ct.geometry, "{name}: geometry of the original's map");
    let blobs = |map: &Volume<f32>| Components::find(&map.data, Connectivity::Corners, |&v| v > 0.0).count();
    assert_eq!(blobs(&detection.map), blobs(&expected), "{name}: components of the map");
    let pairs = detection.map.data.iter().zip(&expected.data);
    let differing = pairs.filter(|(a, b)| (**a - **b).abs() > 1e-3).count();
    assert!(differing * 10_000 <= expected.data.len(), "{name}: {differing} voxels of the map differ");
}

#[test]
fn every_stage_of_the_cascade_agrees_with_the_baseline() {
    let recipe = Path::new(ROOT).join("tests/golden/baseline/panorama/pipeline.json");
    let System::Panorama(cascade) = System::open(&recipe).unwrap() else { panic!("another system") };
    let mut stopped = 0;
    for folder in cases("cascade", 10) {
        let golden = Golden::open(&folder);
        let name = golden.name();
        let ct = Case::find(&folder.join("input"), &PANORAMA).unwrap().read().unwrap();
        let low = itk_resample_to_spacing(&ct, [9.0, 4.5, 4.5], 8.0).unwrap();
        let values = low.data.as_slice().unwrap();
        let difference = golden.sample("low_resolution").largest_difference(low.data.shape(), |i| values[i]);
        eprintln!("{name}: low resolution differs by {difference:.2e} HU");
        assert!(difference <= LOW_RESOLUTION, "{name}: low resolution differs by {difference} HU");
        let located = cascade.locate_pancreas(&ct, ExecutionOptions::default(), &Unobserved).unwrap();
        differing_labels(&name, &located.labels.data, &golden.labels("pancreas_labels.mha"), 1);
        match (located.roi, golden.info.get("roi_zyx")) {
            (Some(roi), Some(expected)) => {
                let expected: Vec<Vec<usize>> = expected.as_array().unwrap().iter().map(integers).collect();
                let got: Vec<Vec<usize>> = (0..3).map(|a| vec![roi.start[a], roi.stop[a]]).collect();
                assert_eq!(got, expected, "{name}: region of interest");
                check_lesion_stage(&golden, &cascade, &ct, &roi);
            }
            (None, None) => stopped += 1,
            (got, expected) => panic!("{name}: region {got:?}, expected {expected:?}"),
        }
        check_detection(&golden, &cascade, &ct);
    }
    assert_eq!(stopped, 1, "one case has no pancreas");
}
