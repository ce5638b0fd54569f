#!/usr/bin/env python3
"""Make what bench_gpu.py runs on: models that nnU-Net and ours both read, and a scan.

    make_gpu_bench.py --work WORK                   # minutes, the case and the networks side by side
    make_gpu_bench.py --work WORK --size tiny       # seconds: the demonstration's networks and scan

WORK/demo     the demonstration's two networks as genuine nnU-Net folders with .pth checkpoints, of the weights shipped
WORK/models   those that are timed. `full`: the demonstration's pancreas network and the PANORAMA lesion network at its real
              width, five folds: one with random weights and a fitted head, the others that one with noise
WORK/case     the scan that is timed. `full`: 512 x 512 x 200 voxels

The first stage is the demonstration's network because a random one finds scattered voxels and leaves no region of interest; it
finds the phantom's pancreas, so that the number of lesion tiles is like a patient's.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import make_demo
import oracle

SEED = 20261121
FOLDS = 5


def network(folder, trained_heads=True):
    """The network of a model folder, with deep supervision's heads as a checkpoint has them."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = PlansManager(str(folder / "plans.json"))
    c = plans.get_configuration("3d_fullres")
    return get_network_from_plans(c.network_arch_class_name, c.network_arch_init_kwargs, c.network_arch_init_kwargs_req_import,
                                  len(dataset["channel_names"]), plans.get_label_manager(dataset).num_segmentation_heads,
                                  allow_init=False, deep_supervision=trained_heads)


def checkpoint_of(file, source):
    """A checkpoint dictionary of a .safetensors file; the heads that inference does not read stay random."""
    from safetensors import safe_open
    with safe_open(str(file), "pt") as stored:
        meta, weights = stored.metadata(), {name: stored.get_tensor(name).float() for name in stored.keys()}
    net = network(source)
    unexpected = net.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise SystemExit(f"{file}: expected the tensors of the plans' network, got also {unexpected[0]}")
    return {"network_weights": net.state_dict(), "trainer_name": meta["trainer_name"],
            "init_args": {"configuration": meta["configuration"]},
            "inference_allowed_mirroring_axes": tuple(json.loads(meta["inference_allowed_mirroring_axes"]))}


def make_demonstration(target):
    """The shipped weights as .pth folders."""
    import torch
    import export_weights
    shipped = make_demo.model_folders(oracle.BASELINE / "panorama")
    for source, folder in zip(shipped, make_demo.model_folders(target)):
        export_weights.copy_description(source, folder)
        for file in sorted(source.glob("fold_*/*.safetensors")):
            path = folder / file.parent.name / f"{file.stem}.pth"
            path.parent.mkdir(exist_ok=True)
            torch.save(checkpoint_of(file, source), path)


def make_lesion_network(a, target):
    """Five folds of the lesion network at real width. Fitting the head takes most of the time, so only one is fitted."""
    import torch
    maker = oracle.load(a.oracle, "make_models")
    torch.set_num_threads(a.threads)
    variant = maker.panorama2
    maker.VARIANTS["panorama2"] = lambda size: variant(size) | {"checkpoints": ["checkpoint_best_panorama.pth"]}
    folder = maker.build_variant("panorama2", "full", 0, target, [0], False, "cpu", tiles=1)
    first = torch.load(folder / "fold_0" / "checkpoint_best_panorama.pth", map_location="cpu", weights_only=False)
    for fold in range(1, FOLDS):
        net = network(folder)
        net.load_state_dict(first["network_weights"])
        maker.perturb_network(net, 0, fold, "gpu", 0.05)
        path = folder / f"fold_{fold}" / "checkpoint_best_panorama.pth"
        path.parent.mkdir(exist_ok=True)
        torch.save(first | {"network_weights": net.state_dict()}, path)


def start_case(a, folder):
    """The scan, made by a process of its own beside the networks."""
    path = folder / "images" / "venous-ct" / "case.mha"
    path.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, str(a.oracle / "make_case.py"), "--preset", "ct_512", "--seed", str(SEED), "--out", str(path)],
                            stdout=subprocess.DEVNULL)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.resolve(), target_is_directory=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--work", type=Path, required=True, help="folder to make; must not exist")
    ap.add_argument("--size", choices=["full", "tiny"], default="full")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    oracle.add_option(ap)
    a = ap.parse_args()
    a.oracle = a.oracle.resolve()
    os.environ.setdefault("ORACLE_THREADS", str(a.threads))
    if a.work.exists():
        raise SystemExit(f"{a.work}: expected no such folder, got one; remove it to make it anew")
    if a.size == "tiny":
        make_demonstration(a.work / "demo")
        link(a.work / "models", a.work / "demo")
        link(a.work / "case", oracle.BASELINE / "input")
    else:
        case = start_case(a, a.work / "case")
        make_demonstration(a.work / "demo")
        pancreas, _ = make_demo.model_folders(a.work / "demo")
        link(a.work / "models" / pancreas.parent.name, pancreas.parent)
        make_lesion_network(a, a.work / "models")
        if case.wait():
            raise SystemExit(f"make_case.py: expected exit status 0, got {case.returncode}")
    (a.work / "size").write_text(a.size + "\n")  # last: says that the folder is complete


if __name__ == "__main__":
    sys.exit(main())
