#!/usr/bin/env python3
"""Make small weights of the baselines, and a synthetic scan for those of PANORAMA's.

    make_demo.py baseline --models RESULTS        # RESULTS: what train_baseline.py trained
    make_demo.py experts  --models EXPERTS        # EXPERTS/panther-t1/expert_0, …: what it trained for each expert
    make_demo.py scan

`baseline` writes tests/golden/baseline/panorama/<dataset>/<trainer>__<plans>__<configuration>/fold_<k>/<checkpoint>.safetensors
(f16) and, under --work, the same folders as .pth with weights rounded to f16: what the Python original runs on.
`experts` does the same for the networks of PANTHER's ensembles, weights/panther-t1/expert_<i> and weights/panther-t2/expert_<i>.
`scan` writes tests/golden/baseline/input/images/venous-ct/<stem>.mha.
"""
import argparse
import os
import sys
from pathlib import Path

import oracle

STAGES = (  # dataset, trainer__plans__configuration, checkpoint
    ("Dataset103_PANORAMA_baseline_Pancreas_Segmentation", "nnUNetTrainer__nnUNetPlans__3d_fullres", "checkpoint_final"),
    ("Dataset104_PANORAMA_baseline_PDAC_Detection", "nnUNetTrainer_Loss_CE_checkpoints__nnUNetPlans__3d_fullres",
     "checkpoint_best_panorama"),
)
PANTHER = "nnUNetTrainer1e3__nnUNetResEncUNetLPlansPancCTMultiTalentV2__3d_fullres_iso1x1x1"
EXPERTS = (  # folder, dataset, trainer__plans__configuration, checkpoint
    ("panther-t1/expert_0", "Dataset901_PANTHER", PANTHER, "checkpoint_final"),
    ("panther-t1/expert_1", "Dataset901_PANTHER", PANTHER, "checkpoint_final"),
    ("panther-t2/expert_0", "Dataset902_PANTHER_HR", PANTHER, "checkpoint_best"),
    ("panther-t2/expert_1", "Dataset902_PANTHER_HR_torchres", PANTHER, "checkpoint_best"),
)
NOTE = "Demonstration weights trained on synthetic phantoms. Unfit for patients."
EXPERTS_NOTICE = """DEMONSTRATION WEIGHTS - NOT FOR PATIENTS

The networks in this folder are tiny (about 0.3 million parameters each) and were trained for minutes on synthetic phantoms,
never on a scan of a person. They exist so that the program can be tried and tested out of the box. On a real scan their
output means nothing.

They were trained by make_models.py of the oracle folder and converted to half precision by
`scripts/reference/make_demo.py experts`. The folder names are those that nnU-Net gives trained models.
"""
STEM = "phantom-venous-ct"


def model_folders(root):
    return [Path(root) / dataset / folder for dataset, folder, _ in STAGES]


def make_baseline(a):
    import export_weights
    target = a.repository / "tests" / "golden" / "baseline" / "panorama"
    total = 0
    for dataset, folder, checkpoint in STAGES:
        files = export_weights.export(Path(a.models) / dataset / folder, target / dataset / folder, None, checkpoint, "f16", NOTE,
                                      Path(a.work) / "models" / dataset / folder)
        total += sum(f.stat().st_size for f in files)
    print(f"{target}: {total} bytes of weights")


def expert_folder(root, expert):
    """Model folder of a row of EXPERTS under weights/, the trained experts, or --work/models."""
    folder, dataset, name, _ = expert
    return Path(root) / folder / dataset / name


def make_experts(a):
    import export_weights
    target = a.repository / "weights"
    for expert in EXPERTS:
        source, rounded = expert_folder(a.models, expert), expert_folder(Path(a.work) / "models", expert)
        files = export_weights.export(source, expert_folder(target, expert), None, expert[3], "f16", NOTE, rounded)
        (target / expert[0]).with_name("DEMONSTRATION_WEIGHTS.txt").write_text(EXPERTS_NOTICE)
        print(expert[0], sum(f.stat().st_size for f in files), "bytes of weights")


def render_scan(a):
    """A field of view about the pancreas of a life-size phantom."""
    import numpy as np
    mc = oracle.load(a.oracle, "make_case")
    half = np.array([200.0, 200.0, 145.0])  # half field of view (mm) that the phantom's anatomy is scaled to
    grid = mc.Grid(a.size, a.spacing, origin=None, centre=(0, 0, 0))
    anatomy = mc.Anatomy(a.seed, -np.asarray(a.centre) * half, half)
    anatomy.les_r = anatomy.les_r * a.lesion_scale
    code, intensities = mc.TISSUE["lesion"]
    mc.TISSUE["lesion"] = (code, (a.lesion_hu, *intensities[1:]))
    values, _ = mc.render(grid, anatomy, "venous", a.seed, noise=a.noise)
    values = np.clip(np.rint(values), -1024, 3071).astype(np.int16)
    return mc.to_image(values, grid)


def make_scan(a):
    import SimpleITK as sitk
    scan = render_scan(a)
    path = a.repository / "tests" / "golden" / "baseline" / "input" / "images" / "venous-ct" / f"{STEM}.mha"
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(scan, str(path), True)
    print(path, path.stat().st_size, scan.GetSize())


def numbers(kind):
    return lambda text: tuple(kind(v) for v in text.split(","))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["baseline", "experts", "scan"])
    ap.add_argument("--models", help="folder of trained models (baseline, experts)")
    ap.add_argument("--work", default="/tmp/pdac-demo", help="folder for what is not committed (default %(default)s)")
    ap.add_argument("--repository", type=Path, default=oracle.REPOSITORY, help="write under this folder instead")
    ap.add_argument("--seed", type=int, default=6)
    ap.add_argument("--size", type=numbers(int), default=(96, 72, 44), help="voxels x,y,z")
    ap.add_argument("--spacing", type=numbers(float), default=(1.4, 1.4, 2.8), help="mm x,y,z")
    ap.add_argument("--centre", type=numbers(float), default=(0.12, -0.08, 0.0),
                    help="where in the phantom the scan lies, fractions of its half size")
    ap.add_argument("--lesion-hu", type=float, default=66.0,
                    help="faint on purpose: the likelihood should not be saturated (default %(default)s)")
    ap.add_argument("--lesion-scale", type=float, default=1.0)
    ap.add_argument("--noise", type=float, default=10.0)
    oracle.add_option(ap)
    a = ap.parse_args()
    os.environ.setdefault("ORACLE_THREADS", "2")
    if a.what in ("baseline", "experts") and not a.models:
        ap.error(f"{a.what} needs --models")
    {"baseline": make_baseline, "experts": make_experts, "scan": make_scan}[a.what](a)


if __name__ == "__main__":
    sys.exit(main())
