#!/usr/bin/env python3
"""Make nnU-Net's raw datasets of both stages, from PANORAMA's public scans or from phantoms.

    prepare.py scans --images DIR --labels DIR [DIR ...] --raw nnUNet_raw
    prepare.py phantoms --binary pdac-cascade --seeds 10000 260 --validation 40 --raw nnUNet_raw

Stage 1 gets every scan at low resolution, resampled as the cascade does (cubic B-splines, same origin and direction), with
pancreas labels by nearest neighbour: PANORAMA's 1 (lesion), 4 (parenchyma) and 5 (duct) are pancreas, the rest background.
Stage 2 gets the region of interest at the scan's own resolution: the box of those low-resolution labels plus margins, with
the cascade's arithmetic, labels 0 to 6 as they are.

Scans are <id>_0000.nii.gz (or .mha), labels <id>.nii.gz in any of the folders; <id> up to its first "_" is the patient, whose
scans stay in one fold. --crops N gives each case N - 1 further regions whose margins are shifted at random by up to --shift mm
per side, as a first stage's errors would; they are for training only. Each dataset's folder gets splits_final.json, which
belongs into its folder of nnUNet_preprocessed.

Of phantoms every second seed has a lesion, of those a fifth a small one; they are rendered at a drawn spacing of 1.0-1.8 mm
in plane and 1-5 mm between slices, one block of ten seeds in nine at the generator's own. The last --validation seeds are
the validation cases.
"""
import argparse
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

PANCREAS_LABELS = (1, 4, 5)
LABELS = {"background": 0, "lesion": 1, "veins": 2, "arteries": 3, "pancreas": 4, "pancreatic duct": 5, "common bile duct": 6}
OUTSIDE = 8.0  # what the cascade's low-resolution scans hold outside the scan
SPLIT_SEED = 20260


def resampler(image, spacing_xyz):
    """A filter to `spacing_xyz` (mm) on the image's origin and direction; sizes are rounded half to even."""
    resample = sitk.ResampleImageFilter()
    resample.SetSize([int(np.round(n * (s / t))) for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing_xyz)])
    resample.SetOutputSpacing(spacing_xyz)
    resample.SetOutputOrigin(image.GetOrigin())
    resample.SetOutputDirection(image.GetDirection())
    return resample


def lower_scan(scan, spacing_xyz):
    resample = resampler(scan, spacing_xyz)
    resample.SetInterpolator(sitk.sitkBSpline)
    resample.SetDefaultPixelValue(OUTSIDE)
    return resample.Execute(sitk.Cast(scan, sitk.sitkFloat32))


def lower_pancreas(labels, spacing_xyz):
    """Mask of the pancreas at low resolution, uint8."""
    resample = resampler(labels, spacing_xyz)
    resample.SetInterpolator(sitk.sitkNearestNeighbor)
    low = resample.Execute(labels)
    mask = sitk.GetImageFromArray(np.isin(sitk.GetArrayViewFromImage(low), PANCREAS_LABELS).astype(np.uint8))
    mask.CopyInformation(low)
    return mask


def region_of(scan, mask, margins_xyz_mm):
    """Half-open box [(start, stop)] per axis x, y, z of the scan; margins are (before, after) in mm per axis.

    The box runs between the full-resolution voxels at the first and the last low-resolution voxel, the last excluded.
    """
    found = np.nonzero(sitk.GetArrayViewFromImage(mask))[::-1]
    if len(found[0]) == 0:
        return None
    corners = [[int(edge(axis)) for axis in found] for edge in (np.min, np.max)]
    first, last = (scan.TransformPhysicalPointToIndex(mask.TransformIndexToPhysicalPoint(c)) for c in corners)
    box = []
    for axis, (before, after) in enumerate(margins_xyz_mm):
        spacing, size = scan.GetSpacing()[axis], scan.GetSize()[axis]
        box.append((max(0, first[axis] - int(before / spacing)), min(size, last[axis] + int(after / spacing))))
    return box


def margins_of(a, name, crop):
    """Margins (before, after) per axis in mm: the given ones for a case's first region, shifted ones for the others."""
    exact = np.repeat(np.array(a.margins)[:, None], 2, 1)
    if crop == 0:
        return exact
    shift = np.array(a.shift)[:, None]
    return np.maximum(0.0, exact + np.random.default_rng([crop, *name.encode()]).uniform(-shift, shift, (3, 2)))


def write(image, folder, part, name):
    path = Path(folder) / part / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def add_case(a, name, scan, labels):
    """Writes a case's files; returns the names of its regions, none where the labels hold no pancreas."""
    mask = lower_pancreas(labels, a.low_spacing)
    regions = []
    for crop in range(a.crops):
        box = region_of(scan, mask, margins_of(a, name, crop))
        if box is None:
            return []
        where = tuple(slice(start, stop) for start, stop in box)
        region = f"{name}_{crop}" if crop else name
        write(scan[where], a.raw / a.lesion, "imagesTr", f"{region}_0000")
        write(sitk.Cast(labels[where], sitk.sitkUInt8), a.raw / a.lesion, "labelsTr", region)
        regions.append(region)
    write(lower_scan(scan, a.low_spacing), a.raw / a.pancreas, "imagesTr", f"{name}_0000")
    write(mask, a.raw / a.pancreas, "labelsTr", name)
    return regions


def describe(folder, labels, names):
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz",
                   "overwrite_image_reader_writer": "SimpleITKIO"}
    (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n")


def write_splits(folder, folds):
    """`folds`: a list of (training names, validation names)."""
    splits = [{"train": sorted(train), "val": sorted(validation)} for train, validation in folds]
    (folder / "splits_final.json").write_text(json.dumps(splits, indent=1) + "\n")


def finish(a, made, folds_of_cases):
    """Descriptions and splits of both datasets; `made` maps each case to the names of its regions."""
    missing = [name for name, regions in made.items() if not regions]
    for name in missing:
        print(f"{name}: no pancreas in the labels at low resolution, left out", file=sys.stderr)
    cases = {name: regions for name, regions in made.items() if regions}
    describe(a.raw / a.pancreas, {"background": 0, "pancreas": 1}, cases)
    describe(a.raw / a.lesion, LABELS, [r for regions in cases.values() for r in regions])
    folds = [([n for n in train if n in cases], [n for n in validation if n in cases]) for train, validation in folds_of_cases]
    write_splits(a.raw / a.pancreas, folds)
    write_splits(a.raw / a.lesion, [([r for n in train for r in cases[n]], [cases[n][0] for n in validation])
                                    for train, validation in folds])
    print(f"{len(cases)} cases in {a.raw / a.pancreas} and {a.raw / a.lesion}")


# ---- scans

def find_scans(a):
    """{id: (scan, labels)}; a scan without labels is named and left out."""
    pairs = {}
    for scan in sorted(p for ending in (".nii.gz", ".mha") for p in a.images.glob(f"*_0000{ending}")):
        name = scan.name.split("_0000.")[0]
        labels = [p for folder in a.labels for ending in (".nii.gz", ".mha") if (p := folder / f"{name}{ending}").is_file()]
        if name in pairs:
            raise SystemExit(f"{pairs[name][0]} and {scan}: two scans of one id")
        if labels:
            pairs[name] = (scan, labels[0])
        else:
            print(f"{name}: no labels in {', '.join(map(str, a.labels))}, left out", file=sys.stderr)
    return pairs


def add_scan(a, item):
    name, (scan, labels) = item
    return name, add_case(a, name, sitk.ReadImage(str(scan)), sitk.ReadImage(str(labels), sitk.sitkUInt8))


def patient_folds(names, count=5):
    """`count` folds of which each patient is in one."""
    patients = np.array(sorted({n.split("_")[0] for n in names}))
    np.random.default_rng(SPLIT_SEED).shuffle(patients)
    fold_of = {p: i % count for i, p in enumerate(patients)}
    of = {n: fold_of[n.split("_")[0]] for n in names}
    return [([n for n in names if of[n] != k], [n for n in names if of[n] == k]) for k in range(count)]


def prepare_scans(a):
    pairs = find_scans(a)
    if not pairs:
        raise SystemExit(f"{a.images}: no scan <id>_0000.nii.gz with labels")
    made = run_all(a, add_scan, list(pairs.items()))
    finish(a, made, patient_folds(sorted(pairs)))


# ---- phantoms

def phantom_name(seed):
    return f"phantom_{seed:06d}"


def lesion_of(seed):
    return ("small" if seed % 10 == 1 else "yes") if seed % 2 else "no"


def spacing_of(seed):
    """Spacing x, y, z in mm, or None for the generator's own."""
    if (seed // 10) % 9 == 4:
        return None
    generator = np.random.default_rng([SPLIT_SEED, seed])
    in_plane, slices = generator.uniform(1.0, 1.8), generator.uniform(1.0, 5.0)
    return [round(v, 3) for v in (in_plane, in_plane, slices)]


def render_phantom(a, seed, folder):
    """(scan, labels) of a seed."""
    scan, labels = Path(folder) / "scan.mha", Path(folder) / "labels.mha"
    command = [str(a.binary), "phantom", "--seed", str(seed), "--lesion", lesion_of(seed), "--image", str(scan), "--labels", str(labels)]
    spacing = spacing_of(seed)
    if spacing:
        command += ["--spacing", ",".join(map(str, spacing))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return sitk.ReadImage(str(scan)), sitk.ReadImage(str(labels), sitk.sitkUInt8)


def add_phantom(a, seed):
    with tempfile.TemporaryDirectory() as folder:
        scan, labels = render_phantom(a, seed, folder)
    return phantom_name(seed), add_case(a, phantom_name(seed), scan, labels)


def prepare_phantoms(a):
    first, count = a.seeds
    made = run_all(a, add_phantom, list(range(first, first + count)))
    validation = [phantom_name(s) for s in range(first + count - a.validation, first + count)]
    finish(a, made, [([n for n in made if n not in validation], validation)])


def run_all(a, task, items):
    there = [a.raw / dataset for dataset in (a.pancreas, a.lesion) if (a.raw / dataset).exists()]
    if there and not a.overwrite:
        raise SystemExit(f"{', '.join(map(str, there))}: already there; --overwrite removes what is in it")
    for folder in there:
        shutil.rmtree(folder)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with multiprocessing.Pool(a.processes) as pool:
        return dict(sorted(pool.imap_unordered(functools.partial(task, a), items)))


def add_shared_options(parser):
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw")
    parser.add_argument("--low-spacing", type=triple, default=(4.5, 4.5, 9.0), help="mm x,y,z of stage 1 (default 4.5,4.5,9)")
    parser.add_argument("--margins", type=triple, default=(100.0, 50.0, 15.0), help="mm x,y,z about the pancreas (default 100,50,15)")
    parser.add_argument("--crops", type=int, default=1, help="regions per case (default 1)")
    parser.add_argument("--shift", type=triple, default=(20.0, 10.0, 5.0), help="mm x,y,z by which margins are shifted (default 20,10,5)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--overwrite", action="store_true", help="remove datasets of these names that are there")


def program(text):
    """Absolute path of a program that a path or PATH names."""
    found = shutil.which(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no program")
    return Path(found).resolve()


def triple(text):
    values = tuple(float(v) for v in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} has {len(values)} values, needs 3")
    return values


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ap.add_subparsers(required=True)
    scans = kinds.add_parser("scans", help="PANORAMA's public scans")
    scans.add_argument("--images", type=Path, required=True)
    scans.add_argument("--labels", type=Path, nargs="+", required=True)
    scans.add_argument("--pancreas", default="Dataset103_PANORAMA_Pancreas", help="dataset of stage 1 (default %(default)s)")
    scans.add_argument("--lesion", default="Dataset104_PANORAMA_MultiTask", help="dataset of stage 2 (default %(default)s)")
    scans.set_defaults(run=prepare_scans)
    phantoms = kinds.add_parser("phantoms", help="synthetic scans")
    phantoms.add_argument("--binary", type=program, required=True, help="pdac-cascade")
    phantoms.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(10000, 260))
    phantoms.add_argument("--validation", type=int, default=40, help="the last seeds, for validation (default %(default)s)")
    phantoms.add_argument("--pancreas", default="Dataset111_Phantom_Pancreas", help="dataset of stage 1 (default %(default)s)")
    phantoms.add_argument("--lesion", default="Dataset112_Phantom_MultiTask", help="dataset of stage 2 (default %(default)s)")
    phantoms.set_defaults(run=prepare_phantoms)
    for parser in (scans, phantoms):
        add_shared_options(parser)
    a = ap.parse_args()
    a.run(a)


if __name__ == "__main__":
    sys.exit(main())
