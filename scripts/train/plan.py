#!/usr/bin/env python3
"""Plan and preprocess a dataset with nnU-Net, then give its 3d_fullres configuration the geometry of a training.

    plan.py Dataset103_PANORAMA_Pancreas report-pancreas
    plan.py Dataset104_PANORAMA_MultiTask report-multitask
    plan.py Dataset111_Phantom_Pancreas demonstration-pancreas
    plan.py Dataset112_Phantom_MultiTask demonstration-multitask

Needs nnUNet_raw and nnUNet_preprocessed. Fingerprint, normalisation and whatever a training below does not set are nnU-Net's
own; the result is a plain plans file (nnUNetPlans.json). splits_final.json is copied from the raw dataset where it is there.

The report gives, for its second stage, patch, features and the sizes of the last three stages. Strides that lead to those
sizes are chosen here: six stages, of which one keeps the resolution. Of its first stage it gives the patch, 128 x 192 x 192,
which is larger than a scan at 4.5 x 4.5 x 9 mm; nnU-Net plans that patch here.
"""
import argparse
import json
import os
import shutil
import sys
from pathlib import Path

FLAT, CUBE = [1, 3, 3], [3, 3, 3]
TRAININGS = {
    "report-pancreas": {"batch_size": 2},
    "report-multitask": {
        "batch_size": 2, "patch_size": [56, 192, 352], "features_per_stage": [32, 64, 128, 256, 320, 320],
        "kernel_sizes": [FLAT, CUBE, CUBE, CUBE, CUBE, CUBE],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1], [2, 2, 2], [2, 2, 2]]},
    "demonstration-pancreas": {
        "batch_size": 4, "patch_size": [24, 64, 80], "spacing": [9.0, 4.5, 4.5], "features_per_stage": [8, 16, 24, 32],
        "kernel_sizes": [FLAT, CUBE, CUBE, CUBE], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]},
    "demonstration-multitask": {
        "batch_size": 2, "patch_size": [32, 96, 128], "spacing": [3.0, 1.5, 1.5], "features_per_stage": [16, 32, 48, 64, 80],
        "kernel_sizes": [FLAT, CUBE, CUBE, CUBE, CUBE],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]},
}
CONFIGURATION = "3d_fullres"


def architecture(training):
    """`architecture` entry of a plans file: a PlainConvUNet of two convolutions per stage."""
    stages = len(training["features_per_stage"])
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": training["features_per_stage"],
            "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": training["kernel_sizes"], "strides": training["strides"],
            "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def with_training(plans, training):
    """The plans with the 3d_fullres configuration alone, changed to what `training` sets."""
    configuration = plans["configurations"][CONFIGURATION]
    for stale in ("next_stage", "previous_stage"):
        configuration.pop(stale, None)
    for key in ("batch_size", "patch_size", "spacing"):
        if key in training:
            configuration[key] = training[key]
    if "strides" in training:
        configuration["architecture"] = architecture(training)
    return plans | {"configurations": {CONFIGURATION: configuration}}


def dataset_id(name):
    return int(name.removeprefix("Dataset").split("_")[0])


def plan(name, training, processes):
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet
    os.environ["nnUNet_n_proc_DA"] = str(processes)  # planning takes it for torch's threads, which cannot be 0
    number = dataset_id(name)
    nnunet.extract_fingerprint_dataset(number, num_processes=processes, show_progress_bar=False)
    nnunet.plan_experiment_dataset(number)
    folder = Path(os.environ["nnUNet_preprocessed"]) / name
    path = folder / "nnUNetPlans.json"
    path.write_text(json.dumps(with_training(json.loads(path.read_text()), training), indent=1) + "\n")
    nnunet.preprocess_dataset(number, configurations=(CONFIGURATION,), num_processes=(processes,))
    splits = Path(os.environ["nnUNet_raw"]) / name / "splits_final.json"
    if splits.is_file():
        shutil.copyfile(splits, folder / splits.name)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dataset", help="its name, Dataset<number>_…")
    ap.add_argument("training", choices=sorted(TRAININGS))
    ap.add_argument("--processes", type=int, default=os.cpu_count())
    a = ap.parse_args()
    plan(a.dataset, TRAININGS[a.training], a.processes)


if __name__ == "__main__":
    sys.exit(main())
