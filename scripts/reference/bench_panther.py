#!/usr/bin/env python3
"""Time the Python original of tumour segmentation in MRI and our program on one scan, alternating, whole processes.

    bench_panther.py --binary target/release/pdac-cascade --input CASE --model MODEL --folds 0 --runs 1 --threads 2

CASE is an input folder of a task (images/abdominal-t1-mri/<scan>.mha or images/abdominal-t2-mri/…), MODEL a trained nnU-Net folder.
Both run it alone, without mirroring, ours by a recipe made for it; the original is ref_panther.py of the oracle folder, with
nnU-Net's own float16 accumulation unless --accum float32 is given. Printed are wall seconds, CPU seconds and peak resident memory
(medians over the runs), their ratios, and in how many voxels the two segmentations differ.
"""
import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import bench_cascade
import oracle

# numpy and SimpleITK are imported after the last run only: at exec the kernel hands the caller's peak memory on to the child.

CHECKPOINTS = {1: "checkpoint_final", 2: "checkpoint_best"}


def weights_folder(a, scratch):
    """A weights folder whose recipe runs the one model."""
    target = scratch / "weights" / f"panther-t{a.task}"
    target.mkdir(parents=True)
    (target / "model").symlink_to(a.model.resolve(), target_is_directory=True)
    member = {"folder": "model", "folds": [int(f) for f in a.folds.split(",")], "checkpoint": CHECKPOINTS[a.task], "mirroring": False, "step": 0.5}
    recipe = {"system": "panther", "members": [member], "tumour_label": 1, "pancreas": None, "roi": None, "postprocessing": {}}
    (target / "pipeline.json").write_text(json.dumps(recipe, indent=1))
    return target.parent


def commands(a, weights):
    """The two command lines, without --output."""
    original = [sys.executable, str(a.oracle / "ref_panther.py"), "--task", str(a.task), "--input", str(a.input), "--model", str(a.model),
                "--folds", a.folds, "--accum", a.accum]
    ours = [str(a.binary), "run", "--input", str(a.input), "--weights", str(weights), "--threads", str(a.threads), *a.ours]
    return {"original": original, "ours": ours}


def deviation(original, ours):
    import numpy as np
    import SimpleITK as sitk
    images = []
    for folder in (original, ours):
        image, = (Path(folder) / "images" / "pancreatic-tumor-segmentation").iterdir()
        images.append(sitk.ReadImage(str(image)))
    a, b = (sitk.GetArrayFromImage(image) for image in images)
    if a.shape != b.shape:
        raise SystemExit(f"segmentations of shapes {a.shape} and {b.shape}")
    return {"voxels": a.size, "tumour_voxels": [int(a.sum()), int(b.sum())], "differing_voxels": int(np.count_nonzero(a != b)),
            "same_geometry": all(getattr(images[0], g)() == getattr(images[1], g)() for g in ("GetOrigin", "GetSpacing", "GetDirection"))}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", type=Path, required=True)
    ap.add_argument("--input", type=Path, required=True)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--task", type=int, choices=[1, 2], default=1)
    ap.add_argument("--folds", default="0")
    ap.add_argument("--runs", type=int, default=1, help="of each (default %(default)s)")
    ap.add_argument("--threads", type=int, default=2, help="of each (default %(default)s)")
    ap.add_argument("--ours", nargs="*", default=[], help="further options of our program, e.g. --ours=--accumulate=float16")
    ap.add_argument("--accum", choices=["official", "float32"], default="official", help="precision of the original's sums over tiles")
    ap.add_argument("--json", type=Path, help="also write everything measured into this file")
    oracle.add_option(ap)
    a = ap.parse_args()
    a.binary, a.oracle = a.binary.resolve(), a.oracle.resolve()
    runs = {"ours": [], "original": []}
    with tempfile.TemporaryDirectory() as tmp:
        weights = weights_folder(a, Path(tmp))
        for k in range(a.runs):
            for who, command in sorted(commands(a, weights).items(), reverse=True):
                r = bench_cascade.measure(command, Path(tmp) / f"{who}{k}", a.threads)
                runs[who].append(r)
                print(f"run {k + 1} {who:8} wall {r['wall_s']:8.2f} s  cpu {r['cpu_s']:8.2f} s  peak {r['peak_mib']:7.0f} MiB", flush=True)
        apart = deviation(Path(tmp) / "original0", Path(tmp) / "ours0")
    medians = {who: {q: statistics.median(r[q] for r in rs) for q in ("wall_s", "cpu_s", "peak_mib")} for who, rs in runs.items()}
    ratios = {q: medians["original"][q] / medians["ours"][q] for q in medians["ours"]}
    bench_cascade.report(medians, ratios, apart)
    if a.json:
        a.json.write_text(json.dumps({"runs": runs, "medians": medians, "ratios": ratios, "deviation": apart}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
