//! Synthetic CTs: what is in them, what they depend on and what they do not, and the command that writes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use ndarray::Array3;
use pdac_cascade::imaging::components::{Components, Connectivity};
use pdac_cascade::imaging::file::read_image;
use pdac_cascade::imaging::{MemoryGauge, Volume, Voxels};
use pdac_cascade::phantom::{Details, LesionKind, Part, Phantom, PhantomError, Request, label};
use predicates::str::contains;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const SIZE: [usize; 3] = [160, 160, 70];

struct Made {
    image: Volume<i16>,
    labels: Volume<u8>,
    details: Details,
}

fn request(seed: u64, lesion: Option<LesionKind>) -> Request {
    Request { seed, lesion, size: Some(SIZE), spacing: None }
}

fn make(request: Request) -> Made {
    let phantom = Phantom::new(request).unwrap();
    let (image, labels) = phantom.scan(MemoryGauge::UNLIMITED).unwrap();
    Made { image, labels, details: phantom.details().clone() }
}

impl Made {
    fn voxel_mm3(&self) -> f64 {
        self.image.geometry.spacing.iter().product()
    }

    fn volume_mm3(&self, labels: &[u8]) -> f64 {
        self.labels.data.iter().filter(|l| labels.contains(l)).count() as f64 * self.voxel_mm3()
    }

    /// Centre of mass of a label, LPS mm.
    fn centre(&self, label: u8) -> [f64; 3] {
        let mut sum = [0.0; 4];
        for ((z, y, x), _) in self.labels.data.indexed_iter().filter(|(_, l)| **l == label) {
            let p = self.labels.geometry.index_to_physical([x as f64, y as f64, z as f64]);
            (0..3).for_each(|a| sum[a] += p[a]);
            sum[3] += 1.0;
        }
        [sum[0] / sum[3], sum[1] / sum[3], sum[2] / sum[3]]
    }

    /// Share of the voxels of these labels that are in their largest connected part.
    fn largest_part(&self, labels: &[u8]) -> f64 {
        let components = Components::find(&self.labels.data, Connectivity::Corners, |l| labels.contains(l));
        let sizes = &components.sizes;
        sizes.iter().copied().max().unwrap_or(0) as f64 / sizes.iter().sum::<usize>() as f64
    }

    fn mean_hu(&self, label: u8) -> f64 {
        let values: Vec<f64> = self
            .image
            .data
            .iter()
            .zip(&self.labels.data)
            .filter_map(|(&hu, &l)| (l == label).then_some(f64::from(hu)))
            .collect();
        values.iter().sum::<f64>() / values.len() as f64
    }
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let [one, three] = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| make(request(11, Some(LesionKind::Any))))
    });
    assert_eq!(one.image, three.image);
    assert_eq!(one.labels, three.labels);
}

#[test]
fn the_patient_is_the_same_on_any_grid() {
    let lesion = Some(LesionKind::Any);
    let made = make(request(5, lesion));
    let coarse = make(Request { size: None, spacing: Some([3.5, 3.0, 4.0]), ..request(5, lesion) });
    assert_eq!(coarse.image.geometry.spacing_xyz(), [3.5, 3.0, 4.0]);
    assert_eq!(made.details.findings, coarse.details.findings);
    for (axis, spacing) in [3.5, 3.0, 4.0].into_iter().enumerate() {
        let length =
            |m: &Made| m.image.geometry.size_xyz()[axis] as f64 * m.image.geometry.spacing_xyz()[axis];
        assert!((length(&made) - length(&coarse)).abs() <= spacing, "field of view along axis {axis}");
    }
    for label in [label::LESION, label::ARTERY, label::PARENCHYMA] {
        let (a, b) = (made.centre(label), coarse.centre(label));
        assert!(distance(a, b) < 2.5, "label {label}: {a:?} and {b:?}");
    }
    let pancreas = [label::LESION, label::PARENCHYMA, label::DUCT];
    let ratio = coarse.volume_mm3(&pancreas) / made.volume_mm3(&pancreas);
    assert!((0.93..1.07).contains(&ratio), "volumes differ by a factor of {ratio}");
}

#[test]
fn without_other_wishes_the_grid_is_a_scanners() {
    for seed in 0..40 {
        let phantom = Phantom::new(Request { seed, lesion: None, size: None, spacing: None }).unwrap();
        let Details { size: [x, y, z], spacing, slice_thickness_mm, body_width_mm, .. } = *phantom.details();
        assert_eq!([x, y], [512, 512]);
        assert!((0.6..=0.9).contains(&spacing[0]) && spacing[0] == spacing[1], "{spacing:?}");
        assert!((1.0..=5.0).contains(&spacing[2]) && slice_thickness_mm == spacing[2]);
        assert!((157.0..=303.0).contains(&(z as f64 * spacing[2])), "{z} slices of {} mm", spacing[2]);
        assert!(f64::from(body_width_mm) < 512.0 * spacing[0]);
    }
}

#[test]
fn every_label_is_there_and_hangs_together() {
    for seed in 20..26 {
        let made = make(request(seed, Some(LesionKind::Any)));
        for label in 1..label::COUNT as u8 {
            assert!(made.volume_mm3(&[label]) > 0.0, "seed {seed} has no label {label}");
        }
        assert!(made.labels.data.iter().all(|&l| usize::from(l) < label::COUNT));
        let pancreas = [label::LESION, label::PARENCHYMA, label::DUCT];
        let part = made.largest_part(&pancreas);
        assert!(part > 0.97, "seed {seed}: {part} of the pancreas");
        assert!(made.largest_part(&[label::LESION]) > 0.9);
        assert!(made.largest_part(&[label::VEIN]) > 0.85, "seed {seed}");
        assert!(made.largest_part(&[label::ARTERY]) > 0.85, "seed {seed}");
        let volume = made.volume_mm3(&pancreas) / 1000.0;
        assert!((30.0..160.0).contains(&volume), "seed {seed}: a pancreas of {volume} ml");
    }
}

#[test]
fn tissues_have_their_hu() {
    for seed in 30..34 {
        let made = make(request(seed, None));
        for (label, low, high) in
            [(label::VEIN, 110.0, 195.0), (label::ARTERY, 110.0, 185.0), (label::PARENCHYMA, 35.0, 120.0)]
        {
            let mean = made.mean_hu(label);
            assert!((low..high).contains(&mean), "seed {seed}, label {label}: {mean} HU");
        }
        let duct = made.mean_hu(label::BILE_DUCT);
        assert!(duct < made.mean_hu(label::VEIN) - 60.0, "seed {seed}: {duct} HU in the bile duct");
        let corner = f64::from(made.image.data[[35, 0, 0]]);
        assert!((-1024.0..-940.0).contains(&corner), "{corner} HU outside the body");
    }
}

#[test]
fn lesions_lie_in_the_pancreas_and_have_their_diameter() {
    for seed in 40..48 {
        let kind = if seed % 2 == 0 { LesionKind::Any } else { LesionKind::Small };
        // Fine voxels about the pancreas only.
        let (size, spacing) = (Some([180, 150, 140]), Some([1.2, 1.2, 1.5]));
        let made = make(Request { size, spacing, ..request(seed, Some(kind)) });
        let lesion = made.details.findings.lesion.unwrap();
        let range = if kind == LesionKind::Any { 8.0..=40.0 } else { 5.0..=12.0 };
        assert!(range.contains(&lesion.diameter_mm), "seed {seed}: {} mm", lesion.diameter_mm);
        let measured = (6.0 * made.volume_mm3(&[label::LESION]) / std::f64::consts::PI).cbrt();
        let ratio = measured / f64::from(lesion.diameter_mm);
        assert!((0.8..1.2).contains(&ratio), "seed {seed}: {measured} mm, {} said", lesion.diameter_mm);
        let off = distance(made.centre(label::LESION), lesion.centre_mm.map(f64::from));
        assert!(off < 0.2 * measured + 1.0, "seed {seed}: {off} mm from where it is said to be");
        assert!(made.largest_part(&[label::LESION, label::PARENCHYMA, label::DUCT]) > 0.97, "seed {seed}");
    }
}

#[test]
fn lesions_are_darker_or_obstruct_the_duct() {
    let details =
        (0..200).map(|seed| Phantom::new(request(seed, Some(LesionKind::Any))).unwrap().details().clone());
    let mut isoattenuating = 0;
    for Details { seed, parenchyma_hu, findings, .. } in details {
        let lesion = findings.lesion.unwrap();
        if lesion.isoattenuating {
            isoattenuating += 1;
            assert!(lesion.contrast_hu.abs() <= 5.0, "seed {seed}: {} HU", lesion.contrast_hu);
            // In the tail there is hardly any duct beyond it.
            assert!(
                lesion.part == Part::Tail || findings.duct_mm > 2.5,
                "seed {seed}: {} mm",
                findings.duct_mm
            );
        } else {
            assert!((-60.0..=-20.0).contains(&lesion.contrast_hu), "seed {seed}: {} HU", lesion.contrast_hu);
            assert!(parenchyma_hu + lesion.contrast_hu >= 24.9, "seed {seed}: as dark as fluid");
        }
    }
    assert!((8..=32).contains(&isoattenuating), "{isoattenuating} of 200");
}

#[test]
fn a_lesion_changes_the_pancreas_and_nothing_else() {
    let [with, without] = [Some(LesionKind::Any), None].map(|lesion| make(request(3, lesion)));
    assert_eq!(without.volume_mm3(&[label::LESION]), 0.0);
    assert_eq!(without.details.findings.lesion, None);
    assert!(with.volume_mm3(&[label::LESION]) > 0.0);
    let near = near_pancreas(&without, &with);
    let changed = |a: &Array3<i16>, b: &Array3<i16>| -> usize {
        a.iter().zip(b).zip(&near).filter(|((a, b), near)| a != b && !**near).count()
    };
    assert_eq!(changed(&with.image.data, &without.image.data), 0);
    assert_ne!(with.image, without.image);
}

/// The box about the pancreas and the bile duct of both, and 12 voxels more.
fn near_pancreas(a: &Made, b: &Made) -> Array3<bool> {
    let mut limits = [[usize::MAX, 0]; 3];
    let inside = |l: u8| ![label::BACKGROUND, label::VEIN, label::ARTERY].contains(&l);
    for made in [a, b] {
        for ((z, y, x), _) in made.labels.data.indexed_iter().filter(|(_, l)| inside(**l)) {
            for (limit, at) in limits.iter_mut().zip([z, y, x]) {
                *limit = [limit[0].min(at), limit[1].max(at)];
            }
        }
    }
    Array3::from_shape_fn(a.labels.data.dim(), |(z, y, x)| {
        limits.iter().zip([z, y, x]).all(|(l, at)| at + 12 >= l[0] && at <= l[1] + 12)
    })
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    let phantom = Phantom::new(request(1, None)).unwrap();
    let error = phantom.scan(MemoryGauge::new(|| Some(1000))).unwrap_err();
    assert!(matches!(error, PhantomError::Memory(_)), "{error}");
    assert!(error.to_string().contains("1000 bytes are available"), "{error}");
}

#[test]
fn impossible_grids_are_refused() {
    let refusal = |size, spacing| {
        let request = Request { seed: 1, lesion: None, size, spacing };
        Phantom::new(request).err().unwrap().to_string()
    };
    assert!(refusal(Some([0, 8, 8]), None).contains("must be positive"));
    for wrong in [f64::NAN, f64::INFINITY, 1e308, 1e-310, 0.0, -1.0] {
        let said = refusal(None, Some([1.0, wrong, 1.0]));
        assert!(said.contains("mm, needs three numbers from 0.001 to 1000"), "{said}");
    }
    assert!(refusal(None, Some([0.001, 0.001, 0.001])).contains("more than"));
}

fn program(arguments: &[&str], folder: &Path) -> assert_cmd::assert::Assert {
    Command::cargo_bin("pdac-cascade").unwrap().arg("phantom").args(arguments).current_dir(folder).assert()
}

#[test]
fn the_command_writes_image_labels_and_details() {
    let folder = TempDir::new().unwrap();
    let options = ["--seed", "9", "--lesion", "small", "--size", "64,48,20"];
    let files = ["--image", "ct.mha", "--labels", "labels.mha", "--details", "details.json"];
    program(&[&options[..], &files].concat(), folder.path()).success();
    let made = make(Request { size: Some([64, 48, 20]), ..request(9, Some(LesionKind::Small)) });
    let [image, labels] = ["ct.mha", "labels.mha"].map(|name| read_image(&folder.path().join(name)).unwrap());
    assert_eq!(image.geometry, made.image.geometry);
    assert_eq!(image.voxels, Voxels::I16(made.image.data));
    assert_eq!(labels.voxels, Voxels::U8(made.labels.data));
    let bytes = fs::read(folder.path().join("details.json")).unwrap();
    let details: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(details["seed"], 9);
    assert_eq!(details["size"], serde_json::json!([64, 48, 20]));
    for key in ["diameter_mm", "contrast_hu", "isoattenuating", "part", "centre_mm"] {
        assert!(!details["lesion"][key].is_null(), "no {key} in {details}");
    }
    for key in ["noise_hu", "spacing", "parenchyma_hu", "duct_mm", "duct_dilated"] {
        assert!(!details[key].is_null(), "no {key} in {details}");
    }
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3, "only what was asked for is left");
}

#[test]
fn wrong_arguments_name_the_option() {
    let folder = TempDir::new().unwrap();
    let refuses = |arguments: &[&str], code: i32, message: &str| {
        program(arguments, folder.path()).code(code).stderr(contains(message));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments:?} left files");
    };
    let files = ["--seed", "1", "--image", "a.mha"];
    let with = |more: &[&'static str]| [&files[..], more].concat();
    refuses(&with(&["--lesion", "large"]), 2, "yes, no, small");
    refuses(&with(&["--lesion", "no", "--size", "0,5,5"]), 2, "--size");
    refuses(&with(&["--lesion", "no", "--size", "5,5"]), 2, "three numbers");
    refuses(&with(&["--lesion", "no", "--spacing", "1,-1,1"]), 2, "--spacing");
    refuses(&with(&["--lesion", "no", "--size", "99999,99999,99999"]), 2, "99999");
    refuses(&["--seed", "1", "--lesion", "no"], 2, "--image");
    refuses(&["--seed", "1", "--lesion", "no", "--labels", "labels.nii"], 2, ".mha");
    refuses(&with(&["--lesion", "no", "--labels", "missing/b.mha"]), 4, "missing/b.mha");
    refuses(&with(&["--lesion", "no", "--labels", "./a.mha"]), 4, "named for the image and for the labels");
}

#[test]
fn more_memory_than_there_is_has_its_exit_code() {
    let folder = TempDir::new().unwrap();
    let program = assert_cmd::cargo::cargo_bin("pdac-cascade");
    let script =
        "ulimit -d 1000000; exec \"$0\" phantom --seed 1 --lesion no --image a.mha --size 1024,1024,512";
    let mut shell = Command::new("sh");
    shell.current_dir(folder.path()).args(["-c", script]).arg(program);
    shell.assert().code(6).stderr(contains("image and labels need"));
}
