#!/usr/bin/env python3
"""Score a trained second stage on the validation cases of its fold: by the head, by the map, by both.

    validate.py MODEL_FOLDER [--fold 0] [--checkpoint checkpoint_final] [--output FILE.json]

Needs nnUNet_preprocessed, torch, nnunetv2, picai_eval and report_guided_annotation. The regions are those that stage 2 was given
for training, at the network's own spacing, without mirroring; the cascade's result on whole scans is `pdac-cascade evaluate`'s
to tell. A case's map is the lesion's probability within the dilated pancreas, its lesion candidates are
`extract_lesion_candidates`'s, its score their maximum; the head's score is its highest (or mean) probability of all tiles.
Prints Dice per label, AUROC per patient, and average precision at an overlap of 0.15.
"""
import argparse
import itertools
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from network import MultiTaskUNet

PANCREAS = (1, 4, 5)
OVERLAP = 0.15


def load(folder, fold, checkpoint):
    """(network without deep supervision, plans, configuration, dataset.json) of a trained folder."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    stored = torch.load(folder / f"fold_{fold}" / f"{checkpoint.removesuffix('.pth')}.pth", map_location="cpu", weights_only=False)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(stored["init_args"]["configuration"])
    unet = get_network_from_plans(configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                                  configuration.network_arch_init_kwargs_req_import, len(dataset["channel_names"]),
                                  manager.get_label_manager(dataset).num_segmentation_heads, deep_supervision=False)
    network = MultiTaskUNet(unet)
    network.load_state_dict(stored["network_weights"])
    return network.eval(), manager, configuration, dataset


@torch.inference_mode()
def predict(network, image, patch):
    """(probabilities (label, z, y, x), probability of PDAC per tile), tiles as nnU-Net's sliding window has them."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
    padded, slicer = pad_nd_image(image, patch, "constant", {"value": 0}, True, None)
    weight = compute_gaussian(tuple(patch), dtype=torch.float32, device=image.device)
    total, weights, tiles = 0, torch.zeros(padded.shape[1:]), []
    for start in itertools.product(*compute_steps_for_sliding_window(padded.shape[1:], patch, 0.5)):
        where = tuple(slice(s, s + p) for s, p in zip(start, patch))
        segmentation, class_logits = network.forward_both(padded[(slice(None), *where)][None])
        if not tiles:
            total = torch.zeros((segmentation.shape[1], *padded.shape[1:]))
        total[(slice(None), *where)] += segmentation[0] * weight
        weights[where] += weight
        tiles.append(float(class_logits.softmax(1)[0, 1]))
    logits = (total / weights)[(slice(None), *slicer[1:])]
    return logits.softmax(0).numpy(), tiles


def detection_map(probabilities):
    """Lesion candidates within the dilated pancreas, each voxel its candidate's probability."""
    from report_guided_annotation import extract_lesion_candidates
    from scipy import ndimage
    near = ndimage.binary_dilation(np.isin(probabilities.argmax(0), PANCREAS), structure=np.ones((5, 5, 5), bool))
    return extract_lesion_candidates(np.where(near, probabilities[1], 0).astype(np.float32))[0]


def score_cases(network, configuration, folder, names):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    dataset = infer_dataset_class(str(folder))(str(folder), names)
    cases = []
    for name in names:
        image, labels, _, _ = dataset.load_case(name)
        probabilities, tiles = predict(network, torch.from_numpy(np.array(image[:])), list(configuration.patch_size))
        truth = np.maximum(np.array(labels[:])[0], 0)
        cases.append({"name": name, "truth": truth, "answer": probabilities.argmax(0), "map": detection_map(probabilities), "tiles": tiles})
        print(f"{name}: lesion {int((truth == 1).any())} map {cases[-1]['map'].max():.3f} head {' '.join(f'{t:.3f}' for t in tiles)}", flush=True)
    return cases


def dice(cases, label):
    """Dice of all cases' voxels together."""
    both, either = 0, 0
    for case in cases:
        truth, answer = case["truth"] == label, case["answer"] == label
        both += np.count_nonzero(truth & answer)
        either += np.count_nonzero(truth) + np.count_nonzero(answer)
    return 2 * both / max(1, either)


def scored(cases, confidence):
    """picai_eval's metrics, each candidate's confidence c replaced by confidence(case, c)."""
    from picai_eval import evaluate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(y_det=[np.where(c["map"] > 0, confidence(c, c["map"]), 0).astype(np.float32) for c in cases],
                        y_true=[(c["truth"] == 1).astype(np.uint8) for c in cases], min_overlap=OVERLAP,
                        num_parallel_calls=1, verbose=0)


def summarise(cases, labels):
    from trainers import area_under_roc
    classes = [bool((c["truth"] == 1).any()) for c in cases]
    patient = {
        "map": lambda c: float(c["map"].max()), "head (highest tile)": lambda c: max(c["tiles"]),
        "head (mean tile)": lambda c: float(np.mean(c["tiles"])), "joined (mean)": lambda c: (max(c["tiles"]) + float(c["map"].max())) / 2}
    lesion = {"map": lambda c, m: m, "joined (mean)": lambda c, m: (m + max(c["tiles"])) / 2}
    return {
        "cases": len(cases), "with lesion": sum(classes),
        "Dice": {name: round(dice(cases, value), 4) for name, value in labels.items() if value},
        "AUROC": {name: round(area_under_roc([f(c) for c in cases], classes), 4) for name, f in patient.items()},
        "AP": {name: round(float(scored(cases, f).AP), 4) for name, f in lesion.items()}}


def validate(folder, fold=0, checkpoint="checkpoint_final"):
    network, manager, configuration, dataset = load(Path(folder), fold, checkpoint)
    base = Path(os.environ["nnUNet_preprocessed"]) / manager.dataset_name
    names = json.loads((base / "splits_final.json").read_text())[fold]["val"]
    return summarise(score_cases(network, configuration, base / configuration.data_identifier, names), dataset["labels"])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=Path, help="<trainer>__<plans>__<configuration>")
    ap.add_argument("--fold", type=int, default=0)
    ap.add_argument("--checkpoint", default="checkpoint_final")
    ap.add_argument("--output", type=Path)
    a = ap.parse_args()
    summary = json.dumps(validate(a.model, a.fold, a.checkpoint), indent=1)
    print(summary)
    if a.output:
        a.output.write_text(summary + "\n")


if __name__ == "__main__":
    sys.exit(main())
