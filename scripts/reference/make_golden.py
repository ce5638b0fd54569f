#!/usr/bin/env python3
"""Make the golden files of nnU-Net inference and of the whole cascade with the Python original, float32 accumulation.

    make_golden.py nnunet  --models RESULTS --demo WORK   # tests/golden/nnunet and tests/golden/models
    make_golden.py cascade --demo WORK                    # tests/golden/cascade

RESULTS: `make_models.py regions transpose multiphase --folds 0,1 --no-momentum` of the oracle folder. WORK: what `make_demo.py
baseline --work WORK` and `make_demo.py experts --work WORK` left there (the demonstration networks with weights rounded to half
precision). Large arrays are kept
as every k-th element of the flattened array, k being recorded. Names can be given to make only those cases.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import make_demo
import oracle
import stable_safetensors

SAMPLES = 30000  # elements kept of an array, at most
FEW = 5000  # the same for the cases of residual encoders
LESION, PANCREAS = "demo-lesion", "demo-pancreas"
EXPERTS = {f"demo-{expert[0].replace('/', '-')}": expert for expert in make_demo.EXPERTS}
T1, T2 = EXPERTS
VARIANTS = {"regions": "Dataset906_ORACLE_Regions", "transpose": "Dataset905_ORACLE_Transpose", "multiphase": "Dataset907_ORACLE_MultiPhase"}

# name: model, folds, float16 accumulation too, dtype, make_case.py arguments (and what is added to every value)
NNUNET = {
    "regions-zero-border": ("regions", (0, 1), False, "int16", dict(
        size=(48, 44, 24), spacing=(2.6, 2.7, 4.0), zero_border=5, direction="flipxy", origin=(60.5, 57.25, -40.0), seed=101)),
    "regions-smaller-than-patch": ("regions", (0, 1), False, "int32", dict(size=(20, 16, 10), spacing=(1.5, 1.6, 2.0), seed=102)),
    "transpose-thick": ("transpose", (0, 1), True, "uint16", dict(
        size=(14, 44, 40), spacing=(4.8, 1.3, 1.4), modality="t2", direction="flipxy", zero_background=True, seed=103)),
    "transpose-masked": ("transpose", (0, 1), False, "float32", dict(
        size=(40, 36, 24), spacing=(1.6, 1.5, 2.0), modality="t2", direction="sagittal", zero_background=True, compress=True, seed=104)),
    "multiphase": ("multiphase", (0,), False, "int16", dict(size=(40, 36, 20), spacing=(4.0, 4.0, 5.0), modality="ct3", compress=True, seed=105)),
    "lesion-thin-oblique": (LESION, (0, 1), False, "float32", dict(
        size=(40, 36, 30), spacing=(0.9, 0.9, 1.0), direction="oblique", origin=(-20.5, 13.0, 99.0), seed=106)),
    "lesion-thick-flipped": (LESION, (0, 1), True, "int16", dict(
        size=(60, 56, 8), spacing=(2.2, 2.2, 10.0), direction="flipz", compress=True, seed=107)),
    "lesion-one-slice": (LESION, (0, 3), False, "int16", dict(size=(40, 40, 1), spacing=(1.6, 1.6, 3.0), seed=108)),
    "pancreas-unresampled": (PANCREAS, (0, 1, 2, 3, 4), False, "int32", dict(
        size=(64, 60, 30), spacing=(4.5, 4.5, 9.0), compress=True, seed=109)),
    "residual-negative-oblique": (T1, (0,), False, "float32", dict(
        size=(30, 28, 20), spacing=(1.1, 1.2, 1.3), modality="t1", direction="oblique", origin=(12.5, -80.0, 5.0), compress=True,
        seed=110, add=-300)),
    "residual-coronal": (T1, (0,), False, "uint16", dict(
        size=(30, 28, 16), spacing=(1.5, 1.4, 2.6), modality="t1", direction="coronal", origin=(3.25, 4.5, -6.75), seed=111)),
    "residual-torch-thick": (T2, (0,), True, "int16", dict(
        size=(44, 40, 10), spacing=(1.4, 1.4, 6.0), modality="t2", compress=True, seed=112)),
}

# name: phantom seed, size, spacing, direction, dtype, compressed, centre of the field of view
CASCADE = {
    "plain": (6, (72, 56, 30), (1.8, 1.8, 4.0), "identity", "int16", True, (0.12, -0.08, 0.0)),
    "oblique": (13, (60, 50, 26), (2.0, 2.0, 4.4), "oblique", "float32", False, (0.12, -0.08, 0.0)),
    "flipped-z": (2, (64, 54, 28), (1.9, 1.8, 4.2), "flipz", "uint16", True, (0.12, -0.08, 0.0)),
    "flipped-xy": (4, (64, 52, 24), (2.0, 1.9, 4.5), "flipxy", "int32", False, (0.12, -0.08, 0.0)),
    "thick-5mm": (1, (64, 52, 24), (2.0, 2.0, 5.0), "identity", "int16", False, (0.12, -0.08, 0.0)),
    "thick-10mm": (1, (64, 52, 14), (2.0, 2.0, 10.0), "flipz", "int16", True, (0.12, -0.08, 0.0)),
    "thin-1mm": (3, (60, 49, 98), (2.15, 2.15, 1.0), "identity", "int16", True, (0.12, -0.08, 0.0)),
    "half-way-2mm": (1, (64, 52, 50), (2.0, 2.0, 2.0), "identity", "int16", True, (0.12, -0.08, 0.0)),
    "half-way-2mm-oblique": (2, (58, 48, 50), (2.25, 2.25, 2.0), "oblique", "int16", True, (0.12, -0.08, 0.0)),
    "no-pancreas": (7, (50, 44, 20), (2.5, 2.5, 5.0), "identity", "int16", True, (-0.5, 0.3, 0.6)),
}


def sampled(tensors, info, name, array, most=SAMPLES):
    """Puts every k-th element of `array` into `tensors` and its shape and k into `info`."""
    flat = np.ascontiguousarray(array).ravel()
    stride = max(1, -(-flat.size // most)) | 1
    tensors[name] = flat[::stride].astype(np.float32)
    info[name] = {"shape": list(array.shape), "stride": stride}


def typed(image, dtype):
    import SimpleITK as sitk
    kinds = {"int16": sitk.sitkInt16, "uint16": sitk.sitkUInt16, "int32": sitk.sitkInt32, "float32": sitk.sitkFloat32}
    if dtype == "uint16":
        image = sitk.Clamp(image, lowerBound=0, upperBound=65535)
    return sitk.Cast(image, kinds[dtype])


def make_nnunet(a, wanted):
    import SimpleITK as sitk
    mc, rn = oracle.load(a.oracle, "make_case", "ref_nnunet")
    for name in wanted or NNUNET:
        model, folds, half, dtype, build = NNUNET[name]
        path, checkpoint = find_model(a, model)
        out = a.out / "nnunet" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        compress = build.get("compress", False)
        images, _ = mc.build(dtype="float32", **{k: v for k, v in build.items() if k not in ("compress", "add")})
        images = [image + build["add"] for image in images] if "add" in build else images
        files = [out / f"input_{i}.mha" for i in range(len(images))]
        for image, file in zip(images, files):
            sitk.WriteImage(typed(sitk.Round(image) if dtype != "float32" else image, dtype), str(file), compress)
        tensors, info = {}, {"model": model, "folds": folds, "checkpoint": checkpoint, "files": [f.name for f in files]}
        for accum in ["float32"] + ["official"] * half:
            with tempfile.TemporaryDirectory() as tmp:
                predictor = rn.load_predictor(path, folds, checkpoint + ".pth", accum=accum)
                rn.run_case(predictor, files, tmp, "x")
                collect(Path(tmp), out, tensors, info, "" if accum == "float32" else "half_", FEW if model in EXPERTS else SAMPLES)
        stable_safetensors.save(tensors, out / "golden.safetensors")
        (out / "golden.json").write_text(json.dumps(info, indent=1) + "\n")
        print(name, info["preprocessed"]["shape"], {k: v.size for k, v in tensors.items()}, flush=True)


def find_model(a, name):
    """The folder that the original runs on, and its checkpoint's name."""
    demo = Path(a.demo) / "models"
    if name in EXPERTS:
        return make_demo.expert_folder(demo, EXPERTS[name]), EXPERTS[name][3]
    pancreas, lesion = make_demo.model_folders(demo)
    shipped = {PANCREAS: (pancreas, "checkpoint_final"), LESION: (lesion, "checkpoint_best_panorama")}
    return shipped[name] if name in shipped else copy_model(a, name)


def copy_model(a, variant):
    """Copies a trained folder, checkpoints as they are, and returns it with its checkpoint's name."""
    source, = (Path(a.models) / VARIANTS[variant]).iterdir()
    target = a.out / "models" / variant
    if not target.exists():
        folds = (0,) if variant == "multiphase" else (0, 1)
        target.mkdir(parents=True)
        for file in ("dataset.json", "plans.json", *(f"fold_{k}/checkpoint_final.pth" for k in folds)):
            (target / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, target / file)
    return source, "checkpoint_final"


def collect(run, out, tensors, info, prefix, most):
    import SimpleITK as sitk
    debug = run / "debug"
    sampled(tensors, info, prefix + "logits", np.load(debug / "x_logits.npy"), most)
    sampled(tensors, info, prefix + "probabilities", np.load(run / "x.npz")["probabilities"], most)
    labels = sitk.ReadImage(str(run / "x.mha"))
    sitk.WriteImage(labels, str(out / (prefix + "labels.mha")), True)
    if prefix:
        return
    sampled(tensors, info, "preprocessed", np.load(debug / "x_preprocessed.npy"), most)
    tile = np.load(debug / "x_tile.npz")
    sampled(tensors, info, "tile_output", tile["output"], most)
    details = json.loads((debug / "x_info.json").read_text())
    info["crop"] = details["bbox_used_for_cropping"]
    info["tile_starts"] = details["tile_starts"]
    info["padded_shape"] = details["padded_shape"]
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian
    import torch
    patch = tuple(details["patch_size"])
    compute_gaussian.cache_clear()
    gaussian = compute_gaussian(patch, sigma_scale=1. / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))
    sampled(tensors, info, "gaussian", gaussian.numpy(), most)


def render(mc, seed, size, spacing, direction, centre):
    """A field of view of a life-size phantom, on a grid of any direction, with an origin that means nothing."""
    half = np.array([200.0, 200.0, 145.0])
    grid = mc.Grid(size, spacing, mc.direction_matrix(direction), None, centre=(0, 0, 0))
    values, _ = mc.render(grid, mc.Anatomy(seed, -np.asarray(centre) * half, half), "venous", seed, noise=10.0)
    grid.origin = np.array([-71.5, -153.25, 402.0])
    return mc.to_image(np.clip(np.rint(values), -1024, 3071).astype(np.float32), grid)


def make_cascade(a, wanted):
    import SimpleITK as sitk
    mc = oracle.load(a.oracle, "make_case")
    for name in wanted or CASCADE:
        seed, size, spacing, direction, dtype, compress, centre = CASCADE[name]
        out = a.out / "cascade" / name
        shutil.rmtree(out, ignore_errors=True)
        scan = out / "input" / "images" / "venous-ct" / "scan.mha"
        scan.parent.mkdir(parents=True)
        sitk.WriteImage(typed(render(mc, seed, size, spacing, direction, centre), dtype), str(scan), compress)
        if a.inputs_only:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            run_cascade(a, Path(tmp), out, name)


def run_cascade(a, tmp, out, name):
    import SimpleITK as sitk
    pancreas, lesion = make_demo.model_folders(Path(a.demo) / "models")
    done = subprocess.run([sys.executable, str(Path(a.oracle) / "ref_panorama.py"), "--accum", "float32", "--input", str(out / "input"),
                           "--output", str(tmp / "out"), "--work", str(tmp / "work"), "--stage1", str(pancreas), "--stage2", str(lesion)])
    if done.returncode not in (0, 3):
        raise SystemExit(f"{name}: ref_panorama.py ended with {done.returncode}")
    work, tensors, info = tmp / "work", {}, {"exit_code": done.returncode}
    sampled(tensors, info, "low_resolution", sitk.GetArrayFromImage(sitk.ReadImage(str(work / "lowres" / "scan.mha"))))
    sitk.WriteImage(sitk.ReadImage(str(work / "stage1" / "scan.nii.gz")), str(out / "pancreas_labels.mha"), True)
    if done.returncode == 0:
        box = json.loads((work / "crop_coordinates.json").read_text())
        info["roi_zyx"] = [[box[f"{ax}_start"], box[f"{ax}_finish"]] for ax in "zyx"]
        sitk.WriteImage(sitk.ReadImage(str(work / "stage2" / "scan.nii.gz")), str(out / "lesion_labels.mha"), True)
        sampled(tensors, info, "masked_probability", np.load(work / "postprocessed_probability.npy"))
        info["candidates"] = json.loads((work / "lesion_confidences.json").read_text())["candidates"]
        info["likelihood"] = json.loads((tmp / "out" / "pdac-likelihood.json").read_text())
        detection_map = sitk.ReadImage(str(tmp / "out" / "images" / "pdac-detection-map" / "detection_map.mha"))
        sitk.WriteImage(detection_map, str(out / "detection_map.mha"), True)
    stable_safetensors.save(tensors, out / "golden.safetensors")
    (out / "golden.json").write_text(json.dumps(info, indent=1) + "\n")
    print(name, info, flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["nnunet", "cascade"])
    ap.add_argument("names", nargs="*", help="cases (default: all)")
    ap.add_argument("--models", help="folder of trained models (nnunet, but for the demonstration networks)")
    ap.add_argument("--demo", required=True, help="--work folder of make_demo.py")
    ap.add_argument("--out", type=Path, default=oracle.REPOSITORY / "tests" / "golden")
    ap.add_argument("--inputs-only", action="store_true", help="only render the cascade's scans")
    oracle.add_option(ap)
    a = ap.parse_args()
    os.environ.setdefault("ORACLE_THREADS", "2")
    if a.what == "nnunet" and not a.models and any(NNUNET[name][0] in VARIANTS for name in a.names or NNUNET):
        ap.error("these cases of nnunet need --models")
    {"nnunet": make_nnunet, "cascade": make_cascade}[a.what](a, a.names)


if __name__ == "__main__":
    sys.exit(main())
