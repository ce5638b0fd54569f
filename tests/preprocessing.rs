//! nnU-Net's own preprocessing of small images (`scripts/reference/make_preprocessing_vectors.py`) against ours.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use ndarray::{Array3, ArrayView3, Axis};
use pdac_cascade::nnunet::plans::{ChannelNormalization, IntensityProperties, NormalizationScheme};
use pdac_cascade::nnunet::preprocessing::{
    BoundingBox, NormalizationError, nonzero_box, nonzero_mask, normalise, permute, transpose,
};
use safetensors::SafeTensors;
use serde_json::Value;

fn array4(file: &SafeTensors<'_>, name: &str) -> ndarray::Array4<f32> {
    let view = file.tensor(name).unwrap();
    let shape: [usize; 4] = view.shape().try_into().unwrap();
    let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    ndarray::Array4::from_shape_vec(shape, values).unwrap()
}

fn normalization(case: &Value, channel: usize) -> ChannelNormalization {
    let number = |key: &str| case["intensity"][channel][key].as_f64().unwrap();
    ChannelNormalization {
        scheme: match case["schemes"][channel].as_str().unwrap() {
            "CTNormalization" => NormalizationScheme::Ct,
            "ZScoreNormalization" => NormalizationScheme::ZScore,
            "NoNormalization" => NormalizationScheme::None,
            "RescaleTo01Normalization" => NormalizationScheme::RescaleTo01,
            "RGBTo01Normalization" => NormalizationScheme::RgbTo01,
            other => panic!("{other}"),
        },
        use_mask: case["use_mask"][channel].as_bool().unwrap(),
        intensity: IntensityProperties {
            mean: number("mean"),
            std: number("std"),
            percentile_00_5: number("percentile_00_5"),
            percentile_99_5: number("percentile_99_5"),
        },
    }
}

/// Transposes, crops and normalises as the predictor does.
fn preprocess(image: &ndarray::Array4<f32>, case: &Value) -> (BoundingBox, Vec<Array3<f32>>) {
    let forward: [usize; 3] = serde_json::from_value(case["transpose_forward"].clone()).unwrap();
    let channels: Vec<Array3<f32>> =
        image.axis_iter(Axis(0)).map(|channel| transpose(channel.to_owned(), forward)).collect();
    let views: Vec<ArrayView3<'_, f32>> = channels.iter().map(|c| c.view()).collect();
    let bounds = nonzero_box(&views);
    let mut cropped: Vec<Array3<f32>> = channels.iter().map(|c| bounds.crop(c).to_owned()).collect();
    let views: Vec<ArrayView3<'_, f32>> = cropped.iter().map(|c| c.view()).collect();
    let mask = nonzero_mask(&views);
    for (c, channel) in cropped.iter_mut().enumerate() {
        let normalization = normalization(case, c);
        normalise(&normalization, channel, normalization.needs_mask().then_some(&mask)).unwrap();
    }
    (bounds, cropped)
}

fn golden() -> (Value, Vec<u8>) {
    let folder = format!("{}/tests/golden/preprocessing", env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read(format!("{folder}/cases.json")).unwrap();
    (serde_json::from_slice(&table).unwrap(), std::fs::read(format!("{folder}/cases.safetensors")).unwrap())
}

#[test]
fn preprocessing_equals_nnunets() {
    let (table, bytes) = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let table = table.as_object().unwrap();
    assert_eq!(table.len(), 13);
    for (name, case) in table {
        let (bounds, got) = preprocess(&array4(&file, &format!("{name}.image")), case);
        let expected_box: Vec<[usize; 2]> = serde_json::from_value(case["box"].clone()).unwrap();
        let got_box: Vec<[usize; 2]> = (0..3).map(|a| [bounds.start[a], bounds.stop[a]]).collect();
        assert_eq!(got_box, expected_box, "{name}");
        let expected = array4(&file, &format!("{name}.expected"));
        assert_eq!(expected.len_of(Axis(0)), got.len(), "{name}");
        for (c, channel) in got.iter().enumerate() {
            let expected = expected.index_axis(Axis(0), c);
            assert_eq!(channel.shape(), expected.shape(), "{name}");
            for (at, want) in expected.indexed_iter() {
                let error = (channel[at] - want).abs();
                assert!(error <= 1e-5 * want.abs().max(1.0), "{name}[{c}]{at:?}: {} not {want}", channel[at]);
            }
        }
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let image =
        Array3::from_shape_fn((17, 23, 29), |(z, y, x)| ((z * 31 + y * 7 + x * 3) % 101) as f32 * 0.37);
    let run = |threads: usize, use_mask: bool| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut data = image.clone();
            let mask = nonzero_mask(&[data.view()]);
            let normalization = ChannelNormalization {
                scheme: NormalizationScheme::ZScore,
                use_mask,
                intensity: IntensityProperties {
                    mean: 0.0,
                    std: 1.0,
                    percentile_00_5: 0.0,
                    percentile_99_5: 1.0,
                },
            };
            normalise(&normalization, &mut data, Some(&mask)).unwrap();
            data.mapv(f32::to_bits)
        })
    };
    for use_mask in [false, true] {
        assert_eq!(run(1, use_mask), run(5, use_mask));
    }
}

#[test]
fn nan_counts_as_content_and_a_single_voxel_makes_a_box() {
    let mut image = Array3::zeros((3, 4, 5));
    image[[1, 2, 3]] = f32::NAN;
    let bounds = nonzero_box(&[image.view()]);
    assert_eq!(bounds, BoundingBox { start: [1, 2, 3], stop: [2, 3, 4] });
    assert_eq!(bounds.shape(), [1, 1, 1]);
}

#[test]
fn axes_and_spacing_are_permuted_alike() {
    let image = Array3::from_shape_fn((2, 3, 4), |(z, y, x)| z * 100 + y * 10 + x);
    let got = transpose(image, [2, 0, 1]);
    assert_eq!(got.dim(), (4, 2, 3));
    assert_eq!(got[[3, 1, 2]], 123);
    assert!(got.is_standard_layout());
    assert_eq!(permute([2, 3, 4], [2, 0, 1]), [4, 2, 3]);
}

#[test]
fn what_cannot_be_normalised_is_named() {
    let mut data = Array3::from_elem((2, 2, 2), 256.0);
    let intensity = IntensityProperties { mean: 0.0, std: 1.0, percentile_00_5: 0.0, percentile_99_5: 1.0 };
    let rgb = ChannelNormalization { scheme: NormalizationScheme::RgbTo01, use_mask: false, intensity };
    let error = normalise(&rgb, &mut data, None).unwrap_err();
    assert_eq!(error, NormalizationError::NotRgb { min: 256.0, max: 256.0 });
    let masked = ChannelNormalization { scheme: NormalizationScheme::ZScore, use_mask: true, intensity };
    let error = normalise(&masked, &mut data, Some(&Array3::from_elem((1, 1, 1), true))).unwrap_err();
    assert!(error.to_string().contains("a mask of shape [2, 2, 2], got Some([1, 1, 1])"), "{error}");
    assert!(normalise(&masked, &mut data, None).is_err());
}
