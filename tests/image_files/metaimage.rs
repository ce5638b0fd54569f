//! MetaImage headers and data in small variations.

use super::{plain, read_in, voxels, zlib};
use pdac_cascade::imaging::Geometry;
use pdac_cascade::imaging::file::Image;
use tempfile::TempDir;

/// Keys and values of a header, changed or added; an empty value takes the key away.
type Changes<'a> = &'a [(&'a str, &'a str)];

/// The header of [`plain`].
const HEADER: Changes<'_> = &[
    ("ObjectType", "Image"),
    ("NDims", "3"),
    ("BinaryData", "True"),
    ("BinaryDataByteOrderMSB", "False"),
    ("CompressedData", "False"),
    ("DimSize", "4 3 2"),
    ("ElementType", "MET_SHORT"),
    ("ElementDataFile", "LOCAL"),
];

pub(super) fn header(changes: Changes<'_>) -> String {
    let is_changed = |key: &str| changes.iter().any(|(changed, _)| *changed == key);
    let kept = HEADER.iter().filter(|(key, _)| !is_changed(key));
    let changed = changes.iter().filter(|(_, value)| !value.is_empty());
    let mut lines = kept.chain(changed).collect::<Vec<_>>();
    lines.sort_by_key(|(key, _)| *key == "ElementDataFile");
    lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

/// What is read from `scan.mha` of this header and these bytes, in a folder with some data files.
fn read_scan(changes: Changes<'_>, data: &[u8]) -> Result<Image, String> {
    let folder = TempDir::new().unwrap();
    let all = voxels();
    let files: [(&str, &[u8]); 10] = [
        ("all.raw", &all),
        ("short.raw", &all[..40]),
        ("s1.raw", &all[..24]),
        ("s2.raw", &all[24..]),
        ("all.z", &zlib(&all)),
        ("s1.z", &zlib(&all[..24])),
        ("s2.z", &zlib(&all[24..])),
        ("h1.raw", &[b"head", &all[..24]].concat()),
        ("h2.raw", &[b"head", &all[24..]].concat()),
        ("scan.mha", &[header(changes).as_bytes(), data].concat()),
    ];
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    read_in(folder.path(), "scan.mha")
}

/// SimpleITK 2.5.7 reads the same from the same headers.
#[test]
fn headers_mean_what_they_mean_to_simpleitk() {
    let geometry = plain().geometry;
    let at = |origin| Geometry { origin, ..geometry };
    let spaced = |spacing| Geometry { spacing, ..geometry };
    let turned = Geometry { direction: [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], ..geometry };
    let (matrix, identity) = ("0 1 0 -1 0 0 0 0 1", "1 0 0 0 1 0 0 0 1");
    let cases: &[(Changes<'_>, Geometry)] = &[
        (&[], geometry),
        (&[("ObjectType", "")], geometry),
        (&[("BinaryData", "")], geometry),
        (&[("ElementDataFile", "local")], geometry),
        (&[("ElementNumberOfChannels", "1")], geometry),
        (&[("DimSize", "4.0 3.0 2.0")], geometry),
        (&[("elementspacing", "2 2 2")], geometry),
        (&[("ElementSpacing", "1e0 2.5E+0 .5")], spaced([0.5, 2.5, 1.0])),
        (&[("ElementSpacing", "1 2 3 4")], spaced([3.0, 2.0, 1.0])),
        (&[("ElementSize", "1 2 3")], spaced([3.0, 2.0, 1.0])),
        (&[("ElementSize", "1 2 3"), ("ElementSpacing", "4 5 6")], spaced([6.0, 5.0, 4.0])),
        (&[("Offset", "1 2 3")], at([1.0, 2.0, 3.0])),
        (&[("Offset", "1 2 3"), ("Position", "4 5 6")], at([4.0, 5.0, 6.0])),
        (&[("Origin", "7 8 9"), ("Position", "4 5 6")], at([7.0, 8.0, 9.0])),
        (&[("ImagePosition", "1 1 1"), ("Origin", "7 8 9")], at([1.0, 1.0, 1.0])),
        (&[("TransformMatrix", matrix)], turned),
        (&[("Rotation", matrix), ("Orientation", identity)], turned),
        (&[("TransformMatrix", matrix), ("Rotation", identity)], turned),
        (&[("ElementByteOrderMSB", "True")], geometry),
    ];
    for (changes, geometry) in cases {
        let image = read_scan(changes, &voxels()).unwrap_or_else(|error| panic!("{changes:?}: {error}"));
        assert_eq!(image, Image { geometry: *geometry, ..plain() }, "{changes:?}");
    }
}

/// SimpleITK 2.5.7 reads the same, but for the rows that say otherwise.
#[test]
fn data_are_found_however_they_are_written_down() {
    let all = voxels();
    let big = (0..24i16).flat_map(i16::to_be_bytes).collect::<Vec<_>>();
    let text = (0..24).map(|n| n.to_string()).collect::<Vec<_>>();
    let deflated = zlib(&all);
    let size = deflated.len().to_string();
    let compressed = ("CompressedData", "True");
    let list = ("ElementDataFile", "LIST");
    let cases: &[(Changes<'_>, Vec<u8>)] = &[
        (&[], [&all[..], b"trailing"].concat()),
        (&[("BinaryDataByteOrderMSB", "1")], big.clone()),
        (&[("BinaryDataByteOrderMSB", ""), ("ElementByteOrderMSB", "True")], big),
        (&[("HeaderSize", "-1")], [b"abcd", &all[..]].concat()),
        (&[compressed, ("CompressedDataSize", &size)], deflated.clone()),
        // Without its size: memory that was never filled, in SimpleITK.
        (&[compressed], deflated.clone()),
        (&[compressed], zlib(&[&all[..], &all[..]].concat())),
        (&[compressed], deflated[..deflated.len() - 1].to_vec()),
        (&[("BinaryData", "False")], text.join(" ").into_bytes()),
        (&[("BinaryData", "False")], (text.join(".7\n") + ",\n").into_bytes()),
        (&[("ElementDataFile", "all.raw")], vec![]),
        (&[("ElementDataFile", "./all.raw")], vec![]),
        (&[("ElementDataFile", "all.z"), compressed], vec![]),
        (&[list], b"s1.raw\ns2.raw\n".to_vec()),
        (&[("ElementDataFile", "LIST 2D")], b"s1.raw\r\ns2.raw\r\n".to_vec()),
        (&[list, compressed], b"s1.z\ns2.z\n".to_vec()),
        (&[list, ("HeaderSize", "4")], b"h1.raw\nh2.raw\n".to_vec()),
        // A blank line: refused by SimpleITK. No end of the last line: the last slice is never filled.
        (&[list], b"s1.raw\n\ns2.raw".to_vec()),
        // One file for all: never filled.
        (&[("ElementDataFile", "LIST 3D")], b"all.raw\n".to_vec()),
        (&[("ElementDataFile", "s%d.raw")], vec![]),
        (&[("ElementDataFile", "s%d.raw 1")], vec![]),
        (&[("ElementDataFile", "s%d.raw 1 2 1")], vec![]),
        (&[("ElementDataFile", "s%d.raw 1 5 1")], vec![]),
        // A step of (2 - 1) / 2 slices = 0, which ends SimpleITK's process.
        (&[("ElementDataFile", "s%d.raw 1 2")], vec![]),
        (&[("ElementDataFile", "s%d.z 1 2 1"), compressed], vec![]),
    ];
    for (changes, data) in cases {
        let image = read_scan(changes, data).unwrap_or_else(|error| panic!("{changes:?}: {error}"));
        assert_eq!(image, plain(), "{changes:?}");
    }
}

fn assert_refused(cases: &[(Changes<'_>, &[u8], &str)]) {
    for (changes, data, message) in cases {
        let Err(error) = read_scan(changes, data) else { panic!("{changes:?} must be refused") };
        assert_eq!(error, format!("scan.mha: {message}"), "{changes:?}");
    }
}

#[test]
fn bad_headers_are_refused_with_their_reason() {
    let all: &[u8] = &voxels();
    assert_refused(&[
        (&[("NDims", "")], all, "the header has no NDims"),
        (&[("DimSize", "")], all, "the header has no DimSize"),
        (&[("ElementType", "")], all, "the header has no ElementType"),
        (&[("ElementDataFile", "")], all, "the header has no ElementDataFile"),
        (&[("ElementType", "met_short")], all, "ElementType is \"met_short\", which is no element type"),
        (
            &[("ElementType", "MET_SHORT_ARRAY")],
            all,
            "has MET_SHORT_ARRAY voxels (a vector image); only scalar 3-D images are accepted",
        ),
        (
            &[("ElementNumberOfChannels", "3")],
            all,
            "has 3 values a voxel (a vector or colour image); only scalar 3-D images are accepted",
        ),
        (
            &[("NDims", "2"), ("DimSize", "4 6")],
            all,
            "is a 2-D image (4 6 voxels); only scalar 3-D images are accepted",
        ),
        (
            &[("NDims", "4"), ("DimSize", "4 3 2 1")],
            all,
            "is a 4-D image (4 3 2 1 voxels); only scalar 3-D images are accepted",
        ),
        (&[("DimSize", "4 -3 2")], all, "DimSize has -3, needs whole numbers of voxels"),
        (&[("DimSize", "4 0 2")], all, "the image has no voxels along y: size is 0, must be positive"),
        (&[("DimSize", "4 3")], all, "DimSize has 2 values, needs 3"),
        (
            &[("DimSize", "2000000 3000000 4000000")],
            all,
            "2000000 × 3000000 × 4000000 voxels of 4 bytes in memory, more than the limit of 4294967296 bytes",
        ),
        (&[("DimSize", "1000 1000 1000")], all, "the file has 48 bytes of voxels, needs 2000000000"),
        (&[("ElementSpacing", "1 2")], all, "ElementSpacing has 2 values, needs 3"),
        (&[("ElementSpacing", "1 a 3")], all, "ElementSpacing has \"a\", needs a number"),
        (&[("ElementSpacing", "1 2 0")], all, "spacing along z is 0, must be positive and finite"),
        (&[("ElementSpacing", "nan 1 1")], all, "spacing along x is NaN, must be positive and finite"),
        (&[("Offset", "inf 1 1")], all, "origin along x is inf, must be finite"),
        (
            &[("TransformMatrix", "1 0 0 0 1 0 0 1 0")],
            all,
            "the direction [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]] is singular or not finite",
        ),
        (&[("HeaderSize", "-2")], all, "HeaderSize is -2, must be -1 or a number of bytes"),
        (
            &[("ElementDataFile", "s%s.raw")],
            b"",
            "ElementDataFile is \"s%s.raw\", needs a pattern such as \"slice%03d.raw 1 9 1\"",
        ),
    ]);
}

#[test]
fn bad_data_are_refused_with_their_reason() {
    let all = voxels();
    let deflated = zlib(&all);
    let mut damaged = deflated.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let n = deflated.len();
    let compressed = ("CompressedData", "True");
    let text = ("BinaryData", "False");
    let none = "its data file none.raw: No such file or directory (os error 2)";
    let padded = |text: &str| format!("{text:60}").into_bytes();
    assert_refused(&[
        (&[], &all[..40], "the file has 40 bytes of voxels, needs 48"),
        (&[("HeaderSize", "-1")], &all[..40], "the file has 40 bytes of voxels, needs 48"),
        (&[("HeaderSize", "9999")], &all, "the file has 0 bytes of voxels, needs 48"),
        (
            &[compressed, ("CompressedDataSize", "500")],
            &deflated,
            &format!("CompressedDataSize is 500, but {n} bytes are there"),
        ),
        (&[compressed], &zlib(&all[..20]), "the file has 20 bytes of voxels, needs 48"),
        (&[compressed], &damaged, "the voxels break off after 0 of 48 bytes: corrupt deflate stream"),
        (
            &[compressed, ("DimSize", "1000 1000 1000")],
            &deflated,
            &format!(
                "{n} compressed bytes cannot hold the 2000000000 bytes of voxels that the header declares"
            ),
        ),
        (&[text], b"1 2 3", "5 bytes of text cannot hold 24 voxels"),
        (&[text], &padded("1 2 3 4 5"), "the file has 5 voxels, needs 24"),
        (&[text], &padded("1 2 40000 4 5"), "voxel 2 is 40000, which MET_SHORT cannot hold"),
        (&[text], &padded("1 2 x 4 5"), "the voxels have \"x\", needs a number"),
        (&[("ElementDataFile", "none.raw")], b"", none),
        (
            &[("ElementDataFile", "short.raw")],
            b"",
            "its data file short.raw: the file has 40 bytes of voxels, needs 48",
        ),
        (&[("ElementDataFile", "..")], b"", "its data file ..: not a regular file"),
        (&[("ElementDataFile", "LIST")], b"s1.raw\n", "ElementDataFile names 1 files, needs 2"),
        (&[("ElementDataFile", "LIST")], b"s1.raw\nnone.raw\n", none),
        (&[("ElementDataFile", "s%d.raw 1 1 1")], b"", "ElementDataFile names 1 files, needs 2"),
        (
            &[("ElementDataFile", "s%d.raw 2 3 1")],
            b"",
            "its data file s3.raw: No such file or directory (os error 2)",
        ),
        (
            &[("ElementDataFile", "LIST"), text],
            b"s1.raw\ns2.raw\n",
            "voxels as text in a series of files; text is accepted in one file only",
        ),
    ]);
}
