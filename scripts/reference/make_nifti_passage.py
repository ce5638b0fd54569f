#!/usr/bin/env python3
"""Random scan geometries, and what SimpleITK makes of them on the way of the PANORAMA baseline's files.

Writes tests/golden/nifti_passage.json. Of each scan: its geometry; the direction of the crop after one NIfTI file
(`crop`); the direction of the low-resolution grid after one file (`once`) and after a second one written with that
geometry (`twice`); float32 origin (`origin_twice`); and low-resolution voxels (`low`, x y z) with the voxels of the
scan that SimpleITK finds nearest (`full`), through `twice`. Spacings are chosen so that many lie half-way.
Needs SimpleITK and numpy; every draw is seeded.

usage: make_nifti_passage.py [--per-kind 10] [tests/golden/nifti_passage.json]
"""
import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

KINDS = ["axis-aligned", "flipped", "permuted", "gantry-tilt", "rotated"]
LOW_SPACING = [4.5, 4.5, 9.0]


def rotation(axis, angle):
    m = np.eye(3)
    j, k = (axis + 1) % 3, (axis + 2) % 3
    m[j, j] = m[k, k] = np.cos(angle)
    m[j, k], m[k, j] = -np.sin(angle), np.sin(angle)
    return m


def direction(kind, rng):
    signs = rng.choice([-1.0, 1.0], 3)
    if kind == "axis-aligned":
        return np.eye(3)
    if kind == "flipped":
        return np.diag(signs)
    if kind == "permuted":
        order = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][rng.integers(5)]
        return np.eye(3)[order] * signs
    tilt = rotation(0, rng.uniform(-0.6, 0.6))
    full = tilt @ rotation(1, rng.uniform(-np.pi, np.pi)) @ rotation(2, rng.uniform(-np.pi, np.pi))
    found = tilt if kind == "gantry-tilt" else full
    precision = rng.integers(3)  # as computed, as in DICOM's decimal strings, as read from NIfTI
    if precision == 1:
        found = np.round(found, 6)
    if precision == 2:
        found = found.astype(np.float32).astype(np.float64)
        found /= np.sqrt((found**2).sum(axis=0))
    return found


def grid(spacing, origin, matrix):
    image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    image.SetSpacing([float(v) for v in spacing])
    image.SetOrigin([float(v) for v in origin])
    image.SetDirection([float(v) for v in np.ravel(matrix)])
    return image


def passed(image, file):
    sitk.WriteImage(image, file)
    return sitk.ReadImage(file)


def scan(kind, rng, file):
    in_plane = float(rng.choice([0.75, 0.9, 1.0]))
    spacing = [in_plane, in_plane, float(rng.choice([0.4, 0.8, 1.2, 2.0, 4.0, 6.0]))]
    origin = [np.zeros(3), rng.integers(-400, 400, 3) / 4, np.round(rng.uniform(-300, 300, 3), 3)][rng.integers(3)]
    matrix = direction(kind, rng)
    full, low = grid(spacing, origin, matrix), grid(LOW_SPACING, origin, matrix)
    once = passed(low, file)
    twice = passed(grid(once.GetSpacing(), once.GetOrigin(), once.GetDirection()), file)
    assert twice.GetSpacing() == once.GetSpacing() and twice.GetOrigin() == once.GetOrigin()
    voxels = [[int(v) for v in rng.integers([50, 50, 30])] for _ in range(8)]
    nearest = [full.TransformPhysicalPointToIndex(twice.TransformIndexToPhysicalPoint(v)) for v in voxels]
    return {
        "kind": kind, "spacing_xyz": spacing, "origin": [float(v) for v in origin], "direction": full.GetDirection(),
        "crop": passed(full, file).GetDirection(), "once": once.GetDirection(), "twice": twice.GetDirection(),
        "origin_twice": twice.GetOrigin(), "low": voxels, "full": nearest,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--per-kind", type=int, default=10)
    parser.add_argument("out", nargs="?", default=Path(__file__).parents[2] / "tests/golden/nifti_passage.json")
    args = parser.parse_args()
    rng = np.random.default_rng(20)
    with tempfile.TemporaryDirectory() as folder:
        scans = [scan(kind, rng, f"{folder}/grid.nii.gz") for kind in KINDS for _ in range(args.per_kind)]
    lines = ",\n".join(json.dumps(s, separators=(",", ":")) for s in scans)
    Path(args.out).write_text(f'{{"simpleitk":"{sitk.Version_VersionString()}","low_spacing_xyz":{LOW_SPACING},"scans":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
