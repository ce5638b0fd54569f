//! Output folders that break each of the rules, and one that breaks none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ndarray::Array3;
use pdac_cascade::challenge::{Apart, Checked, PANORAMA, compare, validate};
use pdac_cascade::imaging::file::{Compression, read_image, write_image};
use pdac_cascade::imaging::{Geometry, Volume};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SHAPE: [usize; 3] = [4, 5, 6];

fn grid() -> Geometry {
    Geometry { origin: [1.0, -20.0, 300.5], ..Geometry::axis_aligned(SHAPE, [2.5, 0.8, 0.8]) }
}

/// Two lesions that do not touch.
fn map() -> Array3<f32> {
    let mut map = Array3::zeros(SHAPE);
    map.slice_mut(ndarray::s![0..2, 0..2, 0..2]).fill(0.75);
    map[(3, 4, 5)] = 0.25;
    map
}

/// An output folder that keeps all rules.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(TempDir::new().unwrap());
        fs::create_dir_all(desk.0.path().join(PANORAMA.output_images())).unwrap();
        fs::write(desk.number(), "0.75").unwrap();
        desk.write(map(), grid());
        desk
    }

    fn image(&self) -> PathBuf {
        self.0.path().join(PANORAMA.output_images()).join("scan.mha")
    }

    fn number(&self) -> PathBuf {
        self.0.path().join(PANORAMA.output_number().unwrap())
    }

    fn write(&self, map: Array3<f32>, geometry: Geometry) {
        write_image(&self.image(), &Volume::new(map, geometry), Compression::Zlib).unwrap();
    }

    fn check(&self) -> Checked {
        validate(self.0.path(), &PANORAMA, Some(&grid()))
    }
}

#[test]
fn sound_outputs_keep_all_rules() {
    let checked = Desk::new().check();
    assert_eq!(checked.findings, []);
    assert_eq!((checked.lesions, checked.likelihood), (2, Some(0.75)));
    assert_eq!(checked.image.unwrap().0, "scan");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scan = read_image(&shipped.join("test_input/images/venous-ct/phantom-venous-ct.mha")).unwrap();
    let checked = validate(&shipped.join("test_output"), &PANORAMA, Some(&scan.geometry));
    assert_eq!((checked.findings, checked.lesions), (vec![], 1));
}

#[test]
fn each_broken_rule_is_named() {
    type Spoil = fn(&Desk);
    fn value(desk: &Desk, at: (usize, usize, usize), value: f32) {
        let mut map = map();
        map[at] = value;
        desk.write(map, grid());
    }
    let table: [(Spoil, &str); 25] = [
        (|d| fs::remove_file(d.image()).unwrap(), "pdac-detection-map: expected exactly one image, got 0"),
        (
            |d| {
                fs::copy(d.image(), d.image().with_file_name("more.mha")).unwrap();
            },
            "expected exactly one image, got 2 (more.mha, scan.mha)",
        ),
        (|d| fs::write(d.image().with_file_name("a.tif"), "").unwrap(), "got 2 (a.tif, scan.mha)"),
        (
            |d| fs::rename(d.image(), d.image().with_extension("nii")).unwrap(),
            "scan.nii: expected a .mha file",
        ),
        (|d| fs::remove_dir_all(d.image().parent().unwrap()).unwrap(), "pdac-detection-map: No such file"),
        (|d| fs::write(d.image(), "nonsense").unwrap(), "scan.mha: "),
        (
            |d| {
                let map = Volume::new(Array3::<u8>::zeros(SHAPE), grid());
                write_image(&d.image(), &map, Compression::None).unwrap();
            },
            "scan.mha: voxels are uint8, expected float32",
        ),
        (
            |d| {
                let other = d.0.path().join("other.mha");
                fs::rename(d.image(), &other).unwrap();
                std::os::unix::fs::symlink(other, d.image()).unwrap();
            },
            "scan.mha: is a symbolic link, expected a file",
        ),
        (
            |d| {
                let header = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementSpacing = 0.8 0.8 2.5\n\
                              Offset = 1 -20 300.5\nElementType = MET_FLOAT\nElementDataFile = data.raw\n";
                fs::write(d.image(), header).unwrap();
                fs::write(d.image().with_file_name("data.raw"), vec![0; 480]).unwrap();
            },
            "scan.mha: expected the voxels in the same file (ElementDataFile = LOCAL)",
        ),
        (|d| value(d, (3, 0, 1), f32::NAN), "voxel (x, y, z) = [1, 0, 3] is NaN, expected 0 to 1"),
        (|d| value(d, (3, 0, 1), -0.5), "voxel (x, y, z) = [1, 0, 3] is -0.5, expected 0 to 1"),
        (|d| value(d, (3, 0, 1), 1.5), "is 1.5, expected 0 to 1"),
        (
            |d| value(d, (2, 2, 2), 0.5),
            "voxel (x, y, z) = [2, 2, 2] is 0.5, expected 0.75 as in the rest of its lesion",
        ),
        (|d| value(d, (0, 1, 1), 0.5), "voxel (x, y, z) = [1, 1, 0] is 0.5, expected 0.75"),
        (
            |d| d.write(map().slice_move(ndarray::s![..3, .., ..]), Geometry { shape: [3, 5, 6], ..grid() }),
            "size is [6, 5, 3] (x, y, z), expected the scan's [6, 5, 4]",
        ),
        (
            |d| d.write(map(), Geometry { spacing: [2.5, 0.8, 0.80001], ..grid() }),
            "spacing is [0.80001, 0.8, 2.5] mm (x, y, z), expected the scan's [0.8, 0.8, 2.5]",
        ),
        (
            |d| d.write(map(), Geometry { origin: [1.0, -20.0, 300.0], ..grid() }),
            "origin is [1.0, -20.0, 300.0] mm, expected the scan's [1.0, -20.0, 300.5]",
        ),
        (
            |d| {
                d.write(
                    map(),
                    Geometry { direction: [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], ..grid() },
                );
            },
            "direction is [[-1.0,",
        ),
        (
            |d| fs::remove_file(d.number()).unwrap(),
            "pdac-likelihood.json: no such file, expected a bare JSON number",
        ),
        (|d| fs::write(d.number(), "\u{feff}0.5").unwrap(), "expected a bare JSON number"),
        (|d| fs::write(d.number(), "NaN").unwrap(), "pdac-likelihood.json: expected a bare JSON number"),
        (
            |d| fs::write(d.number(), "\"0.5\"").unwrap(),
            "expected a bare JSON number, got another JSON value",
        ),
        (|d| fs::write(d.number(), "[0.5]").unwrap(), "expected a bare JSON number, got another JSON value"),
        (|d| fs::write(d.number(), "1.01").unwrap(), "likelihood is 1.01, expected 0 to 1"),
        (
            |d| fs::write(d.image().with_file_name(".writing-x"), "").unwrap(),
            ".writing-x: half-written, expected no such file",
        ),
    ];
    for (spoil, message) in table {
        let desk = Desk::new();
        spoil(&desk);
        let findings: Vec<_> = desk.check().findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 1, "{message}: {findings:?}");
        assert!(findings[0].contains(message), "{message:?} is not in {findings:?}");
    }
}

#[test]
fn a_geometry_within_itks_tolerance_is_the_scans() {
    let desk = Desk::new();
    let nearly = Geometry { spacing: [2.5, 0.8, 0.800_000_1], origin: [1.000_000_1, -20.0, 300.5], ..grid() };
    desk.write(map(), nearly);
    assert_eq!(desk.check().findings, []);
}

#[test]
fn differences_from_expected_outputs_are_named() {
    let (expected, got) = (Desk::new(), Desk::new());
    let compared = || {
        let mut checked = got.check();
        let apart = compare(got.0.path(), &mut checked, &expected.check(), 1e-3);
        (apart, checked.findings.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(compared(), (Some(Apart::Detection { map: 0.0, likelihood: 0.0 }), vec![]));
    got.write(map().mapv(|v| v * 0.5), grid());
    fs::write(got.number(), "0.375").unwrap();
    fs::rename(got.image(), got.image().with_file_name("other.mha")).unwrap();
    let (apart, findings) = compared();
    assert_eq!(apart, Some(Apart::Detection { map: 0.375, likelihood: 0.375 }));
    let expected = [
        "the image is named other, expected scan",
        "map's values differ by 3.750e-1",
        "the likelihood differs by",
    ];
    assert_eq!(findings.len(), expected.len(), "{findings:?}");
    for (finding, message) in findings.iter().zip(expected) {
        assert!(finding.contains(message), "{message:?} is not in {finding:?}");
    }
}
