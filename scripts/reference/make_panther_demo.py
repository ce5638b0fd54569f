#!/usr/bin/env python3
"""Make the demonstration of tumour segmentation in MRI: synthetic scans, and what the Python original answers to them.

    make_panther_demo.py scan     [T1 and T2]       # test_input/panther-t1, test_input/panther-t2
    make_panther_demo.py expected --work DIR        # test_output/…, by nnU-Net with the weights that make_demo.py experts left there
    make_panther_demo.py cascade  --work DIR        # tests/golden/panther_cascade: a first stage, a crop, one member on it

Both tasks have two members. Those of panther-t1 prepare scans alike: their logits are averaged, as nnU-Net averages those of folds.
Those of panther-t2 resample logits differently: their probabilities are averaged on the scan's grid, as nnU-Net averages those of
configurations. Float32 accumulation, no mirroring.
"""
import argparse
import os
import sys
import tempfile
from pathlib import Path

import make_demo
import oracle

SCANS = {  # task: folder of the image, name, make_case.py's arguments
    "panther-t1": ("abdominal-t1-mri", "phantom-t1-mri", dict(
        size=(72, 64, 32), spacing=(1.4, 1.4, 2.5), modality="t1", dtype="uint16", origin=(-50.25, -44.5, 12.0), seed=11)),
    "panther-t2": ("abdominal-t2-mri", "phantom-t2-mri", dict(
        size=(72, 68, 34), spacing=(1.35, 1.35, 2.4), modality="t2", dtype="int16", direction="flipxy", origin=(48.5, 45.25, -30.0), seed=27)),
}

COARSE_MM, COARSE_LABEL, MARGIN_MM = (1.6, 1.6, 2.8), 1, (6.0, 8.0, 4.0)  # of the cascade; x, y, z


def image_file(root, task):
    folder, name, _ = SCANS[task]
    return Path(root) / task / "images" / folder / f"{name}.mha"


def make_scans(a):
    import SimpleITK as sitk
    mc = oracle.load(a.oracle, "make_case")
    for task, (_, _, arguments) in SCANS.items():
        (image,), labels = mc.build(**{**arguments, **({"seed": a.seed} if a.seed is not None else {})})
        file = image_file(a.repository / "test_input", task)
        truth = Path(a.work) / "truth" / f"{task}.mha"
        for path, content in ((file, image), (truth, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(content, str(path), True)
        print(file, file.stat().st_size, image.GetSize())


def member_logits(rn, expert, a, files):
    """(predictor, properties, averaged logits) of one member, as nnU-Net hands them to its export."""
    model = make_demo.expert_folder(Path(a.work) / "models", expert)
    predictor = rn.load_predictor(model, (0,), expert[3] + ".pth", mirroring=False, accum="float32")
    with tempfile.TemporaryDirectory() as tmp:
        properties, logits = rn.run_case(predictor, files, tmp, "x", npz=False, debug=False, argmax_logits=False)
    return predictor, properties, logits


def exported(predictor, properties, logits, probabilities):
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as convert
    p = predictor
    return convert(logits, p.plans_manager, p.configuration_manager, p.label_manager, properties, return_probabilities=probabilities)


def tumour_of(rn, task, a, files):
    """Labels of the ensemble: 1 is the tumour."""
    import numpy as np
    members = [member_logits(rn, expert, a, files) for expert in make_demo.EXPERTS if expert[0].startswith(task)]
    assert len(members) == 2, f"{task}: {len(members)} members, expected 2"
    if task == "panther-t1":
        (predictor, properties, first), (_, _, second) = members
        return exported(predictor, properties, (first + second) / 2, False)
    probabilities = [exported(*member, True)[1] for member in members]
    return np.argmax(sum(probabilities) / 2, 0)


def make_expected(a):
    import numpy as np
    import SimpleITK as sitk
    rn = oracle.load(a.oracle, "ref_nnunet")
    for task, (_, name, _) in SCANS.items():
        file = image_file(a.repository / "test_input", task)
        scan = sitk.ReadImage(str(file))
        mask = (tumour_of(rn, task, a, [file]) == 1).astype(np.uint8)
        image = sitk.GetImageFromArray(mask)
        image.CopyInformation(scan)
        target = a.repository / "test_output" / task / "images" / "pancreatic-tumor-segmentation" / f"{name}.mha"
        target.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(target), True)
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(Path(a.work) / "truth" / f"{task}.mha"))) == 1
        dice = 2 * np.count_nonzero((mask == 1) & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))
        print(f"{target}: {mask.sum()} voxels, Dice with the true tumour {dice:.3f}")


def make_cascade(a):
    """The first task's second expert finds tumour and pancreas at low resolution, the first one segments the crop around them."""
    import SimpleITK as sitk
    rn, rp = oracle.load(a.oracle, "ref_nnunet", "ref_panorama")
    fine, coarse = (e for e in make_demo.EXPERTS if e[0].startswith("panther-t1"))
    scan = sitk.ReadImage(str(image_file(a.repository / "test_input", "panther-t1")), sitk.sitkFloat32)
    with tempfile.TemporaryDirectory() as tmp:
        low = Path(tmp) / "low_0000.nii.gz"
        sitk.WriteImage(rp.to_spacing(scan, COARSE_MM), str(low))
        predictor = rn.load_predictor(make_demo.expert_folder(Path(a.work) / "models", coarse), (0,), coarse[3] + ".pth", mirroring=False, accum="float32")
        rn.run_case(predictor, [low], tmp, "low", ".nii.gz", npz=False, debug=False, argmax_logits=False)
        mask = sitk.ReadImage(str(Path(tmp) / "low.nii.gz")) == COARSE_LABEL
        rp.MARGIN_MM = MARGIN_MM
        box, _ = rp.pancreas_box(scan, mask)
        (x0, x1), (y0, y1), (z0, z1) = ((box[f"{k}_start"], box[f"{k}_finish"]) for k in "xyz")
        crop = Path(tmp) / "crop_0000.mha"
        sitk.WriteImage(scan[x0:x1, y0:y1, z0:z1], str(crop))
        tumour = exported(*member_logits(rn, fine, a, [crop]), False) == 1
    out = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    out.CopyInformation(scan)
    array = sitk.GetArrayFromImage(out)
    array[z0:z1, y0:y1, x0:x1] = tumour
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(scan)
    target = a.repository / "tests" / "golden" / "panther_cascade" / "tumour.mha"
    target.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(target), True)
    print(f"{target}: {array.sum()} voxels, box {box} of {scan.GetSize()}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["scan", "expected", "cascade"])
    ap.add_argument("--work", default="/tmp/pdac-demo", help="folder for what is not committed (default %(default)s)")
    ap.add_argument("--repository", type=Path, default=oracle.REPOSITORY, help="write under this folder instead")
    ap.add_argument("--seed", type=int, help="of the phantoms, instead of the committed ones'")
    oracle.add_option(ap)
    a = ap.parse_args()
    os.environ.setdefault("ORACLE_THREADS", "2")
    {"scan": make_scans, "expected": make_expected, "cascade": make_cascade}[a.what](a)


if __name__ == "__main__":
    sys.exit(main())
