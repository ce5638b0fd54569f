#!/usr/bin/env python3
"""Make the demonstration of the multi-task cascade: a synthetic scan, and what the Python original answers to it.

    make_multitask_demo.py scan --binary target/release/pdac-cascade
    make_multitask_demo.py expected --models WORK/models --work DIR    # WORK: that of scripts/train/train_demo.py; a minute or two

`scan` writes test_input/images/venous-ct/<stem>.mha, test_input/clinical-information-pancreatic-ct.json and, under --work, the
phantom's true labels.
`expected` writes test_output/images/pdac-detection-map/<stem>.mha, test_output/pdac-likelihood.json and test_output/run-report.json:
ref_panorama.py with float32 accumulation runs both stages as nnU-Net does; the head's logits of every tile come from the
same network in the same pass. Patches, head and map join as weights/panorama/pipeline.json says.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import oracle

STEM = "phantom-venous-ct"
SEED, SIZE = 45, (160, 160, 48)
PATCHES = {"max": max, "mean": lambda patches: sum(patches) / len(patches)}
COMBINE = {"mean": lambda head, map_: (head + map_) / 2, "max": max, "noisy_or": lambda head, map_: 1 - (1 - head) * (1 - map_)}


def recipe():
    return json.loads((oracle.REPOSITORY / "weights" / "panorama" / "pipeline.json").read_text())


def make_scan(a):
    path = oracle.REPOSITORY / "test_input" / "images" / "venous-ct" / f"{STEM}.mha"
    a.work.mkdir(parents=True, exist_ok=True)
    command = [a.binary, "phantom", "--seed", a.seed, "--lesion", "yes", "--size", ",".join(map(str, a.size)), "--image", path,
               "--labels", a.work / "truth.mha", "--details", a.work / "details.json"]
    subprocess.run([str(part) for part in command], check=True)
    clinical = {"age": "063Y", "sex": "F", "study_date": "20200101", "scanner": "synthetic phantom"}
    (oracle.REPOSITORY / "test_input" / "clinical-information-pancreatic-ct.json").write_text(json.dumps(clinical, indent=4) + "\n")
    print(path, path.stat().st_size, "bytes", (a.work / "details.json").read_text())


def run_original(a, work, output):
    """ref_panorama.py with the recipe's margins; the head's probability of every tile."""
    os.environ.setdefault("ORACLE_THREADS", "2")
    rp = oracle.load(a.oracle, "ref_panorama")
    os.environ["nnUNet_extTrainer"] = str(oracle.REPOSITORY / "scripts" / "train")
    settings, probabilities = recipe(), []
    rp.MARGIN_MM = tuple(settings["roi"]["margin_mm_xyz"])
    load_predictor = rp.load_predictor

    def load_recording(*arguments, **options):
        predictor = load_predictor(*arguments, **options)
        network = predictor.network
        if hasattr(network, "forward_both"):
            def forward(x):
                segmentation, logits = network.forward_both(x)
                probabilities.append(float(logits[0].double().softmax(0)[1]))
                return segmentation
            network.forward = forward
        return predictor

    rp.load_predictor = load_recording
    stages = [a.models / settings[stage]["model"]["folder"] for stage in ("pancreas", "lesion")]
    checkpoints = [settings[stage]["model"]["checkpoint"] + ".pth" for stage in ("pancreas", "lesion")]
    sys.argv = ["ref_panorama.py", "--accum", "float32", "--input", str(oracle.REPOSITORY / "test_input"), "--output", str(output),
                "--work", str(work), "--stage1", str(stages[0]), "--stage2", str(stages[1]), "--checkpoint1", checkpoints[0],
                "--checkpoint2", checkpoints[1], "--folds", "0", "--no-mirroring"]
    if rp.main() != 0:
        raise SystemExit("the original found no pancreas")
    tiles = json.loads((work / "stage2" / "debug" / "scan_info.json").read_text())["n_tiles"]
    return probabilities[:tiles]


def make_expected(a):
    import numpy as np
    import SimpleITK as sitk
    work, output = a.work / "run", a.work / "output"
    for folder in (work, output):
        shutil.rmtree(folder, ignore_errors=True)
    patches = run_original(a, work, output)
    rule = recipe()["likelihood"]
    head, from_map = PATCHES[rule["patches"]](patches), json.loads((output / "pdac-likelihood.json").read_text())
    joined = COMBINE[rule["combine"]](head, from_map)
    target = oracle.REPOSITORY / "test_output"
    detection_map = target / "images" / "pdac-detection-map" / f"{STEM}.mha"
    found = sitk.ReadImage(str(output / "images" / "pdac-detection-map" / "detection_map.mha"))
    sitk.WriteImage(found, str(detection_map), True)
    (target / "pdac-likelihood.json").write_text(json.dumps(joined))
    report = {"likelihood": {**rule, "head": head, "map": from_map, "joined": joined}}
    (target / "run-report.json").write_text(json.dumps(report, indent=2) + "\n")
    found = sitk.GetArrayFromImage(found) > 0
    lesion = sitk.GetArrayFromImage(sitk.ReadImage(str(a.work / "truth.mha"))) == 1
    dice = 2 * np.count_nonzero(found & lesion) / (np.count_nonzero(found) + np.count_nonzero(lesion))
    print("patches", patches, "report", report)
    print("crop", json.loads((work / "crop_coordinates.json").read_text()), "of (z, y, x)", found.shape)
    print(f"Dice of map > 0 with the true lesion: {dice:.3f} ({np.count_nonzero(found)} and {np.count_nonzero(lesion)} voxels)")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["scan", "expected"])
    ap.add_argument("--binary", type=Path, help="pdac-cascade, whose `phantom` makes the scan (scan)")
    ap.add_argument("--models", type=Path, help="folder of the .pth models with weights rounded to f16 (expected)")
    ap.add_argument("--work", type=Path, default=Path("/tmp/pdac-multitask-demo"), help="for what is not committed (default %(default)s)")
    ap.add_argument("--seed", type=int, default=SEED)
    ap.add_argument("--size", type=lambda text: tuple(map(int, text.split(","))), default=SIZE, help="voxels x,y,z")
    oracle.add_option(ap)
    a = ap.parse_args()
    needed = {"scan": "binary", "expected": "models"}[a.what]
    if not getattr(a, needed):
        ap.error(f"{a.what} needs --{needed}")
    {"scan": make_scan, "expected": make_expected}[a.what](a)


if __name__ == "__main__":
    sys.exit(main())
