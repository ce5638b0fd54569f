#!/usr/bin/env python3
"""Write tests/golden/multitask/: small multi-task networks and what PyTorch computes with them.

model/                  a trained-model folder of two folds as nnU-Net writes it, trainer nnUNetTrainerMultiTask, three labels
vectors.safetensors     computed with it, all float32:
  input (1, z, y, x)                 one patch, with fold 0's answers: segmentation (3, z, y, x) and class_logits (2)
  image (1, z, y, x)                 larger than the patch in z and x; as the network sees it, nothing is to be prepared
  tile_starts (tile, 3)              int64, (z, y, x), in the order of nnU-Net's sliding window at step 0.5
  tile_class_logits_fold_<k> (tile, 2)   means over the eight mirrorings of z, y, x
  tile_class_logits (tile, 2)            their mean over the folds
residual.json           class and arguments as in plans.json, the patch, and the head's size: six stages, residual encoder
residual.safetensors    the parameters that inference reads, `input`, `segmentation` and `class_logits`

Weights are seeded and random (He-normal, biases and norms not trivial): an untrained network would leave most of itself unseen.

Usage: make_multitask_vectors.py [OUT] [--oracle DIR]     (needs torch, nnunetv2 2.8.1 and safetensors)
"""
import argparse
import itertools
import json
import shutil
import sys
from pathlib import Path

import oracle

sys.path.insert(0, str(oracle.REPOSITORY / "scripts" / "train"))

PATCH, IMAGE = (8, 16, 24), (13, 16, 41)
WIDTH, HIDDEN = 12, 10
FOLDS = (0, 1)
RESIDUAL = {
    "n_stages": 6, "features_per_stage": [2, 3, 4, 4, 5, 6], "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3]] + [[3, 3, 3]] * 5,
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 1, 2]],
    "n_blocks_per_stage": [1, 1, 2, 1, 1, 1], "n_conv_per_stage_decoder": [1] * 5, "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}
RESIDUAL_PATCH, RESIDUAL_HEAD = (2, 32, 64), (5, 4)


def variant(mm):
    """What make_models.py calls a variant: plans, dataset and the rest of a checkpoint."""
    kernels, strides = mm.geo(mm.A1, mm.A3, mm.A3, mm.A3), mm.geo(mm.S1, mm.SX, mm.S2, mm.SX)
    arch = mm.arch_entry("PlainConvUNet", [4, 6, 8, 10], kernels, strides, [1, 2, 1, 1], [1, 1, 1])
    config = mm.config_entry("nnUNetPlans", "3d_fullres", PATCH, (3.0, 1.5, 1.5), ["CTNormalization"], [False], IMAGE, 2, arch=arch)
    return dict(
        plans=mm.plans_entry("Dataset908_MultiTask", "nnUNetPlans", {"3d_fullres": config},
                             {"0": mm.intens(0.0, 1.0, -1000.0, 1000.0)}, (3.0, 1.5, 1.5), IMAGE),
        dataset={"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1, "pancreas": 2}, "numTraining": 1,
                 "file_ending": ".nii.gz"},
        config="3d_fullres", trainer="nnUNetTrainerMultiTask", mirror=(0, 1, 2))


def build(mm, architecture, classes, head, seed):
    """The network with seeded random parameters, deep supervision off."""
    from network import MultiTaskUNet
    unet = mm.get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                     ["conv_op", "norm_op", "dropout_op", "nonlin"], 1, classes, deep_supervision=False)
    network = MultiTaskUNet(unet, *head).eval()
    mm.fill_network(network, 0, seed, "multitask")
    return network


def mirrored_class_logits(torch, network, tile):
    """Mean of the class logits over all mirrorings of z, y and x, (2)."""
    axes = [combination for n in range(4) for combination in itertools.combinations((2, 3, 4), n)]
    return torch.stack([network.forward_class(torch.flip(tile[None], a))[0] for a in axes]).mean(0)


def tile_vectors(mm, networks, image):
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    torch = mm.torch
    starts = list(itertools.product(*compute_steps_for_sliding_window(IMAGE, PATCH, 0.5)))
    tiles = [image[(slice(None), *(slice(s, s + p) for s, p in zip(start, PATCH)))] for start in starts]
    folds = [torch.stack([mirrored_class_logits(torch, n, t) for t in tiles]) for n in networks]
    named = {f"tile_class_logits_fold_{k}": logits for k, logits in zip(FOLDS, folds)}
    return named | {"image": image, "tile_starts": torch.tensor(starts), "tile_class_logits": torch.stack(folds).mean(0)}


def make_plain(mm, out):
    import stable_safetensors
    v, torch = variant(mm), mm.torch
    shutil.rmtree(out / "model", ignore_errors=True)
    mm.write_json(out / "model" / "plans.json", v["plans"])
    mm.write_json(out / "model" / "dataset.json", v["dataset"])
    networks = [build(mm, v["plans"]["configurations"]["3d_fullres"]["architecture"], 3, (WIDTH, HIDDEN), f) for f in FOLDS]
    for fold, network in zip(FOLDS, networks):
        mm.save_checkpoint(out / "model" / f"fold_{fold}" / "checkpoint_final.pth", network, v, fold, fold, False, "cuda:0")
    generator = torch.Generator().manual_seed(1)
    patch, image = (torch.randn((1, *shape), generator=generator) for shape in (PATCH, IMAGE))
    segmentation, class_logits = networks[0].forward_both(patch[None])
    vectors = {"input": patch, "segmentation": segmentation[0], "class_logits": class_logits[0]} | tile_vectors(mm, networks, image)
    stable_safetensors.save({n: t.contiguous() for n, t in vectors.items()}, out / "vectors.safetensors")
    return vectors


def make_residual(mm, out):
    import stable_safetensors
    from export_weights import inference_tensors
    architecture = {"network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                    "arch_kwargs": RESIDUAL}
    network = build(mm, architecture, 2, RESIDUAL_HEAD, "residual")
    patch = mm.torch.randn((1, *RESIDUAL_PATCH), generator=mm.torch.Generator().manual_seed(2))
    segmentation, class_logits = network.forward_both(patch[None])
    answers = {"input": patch, "segmentation": segmentation[0], "class_logits": class_logits[0]}
    tensors = inference_tensors(network.state_dict()) | answers
    stable_safetensors.save({n: t.contiguous() for n, t in tensors.items()}, out / "residual.safetensors")
    width, hidden = RESIDUAL_HEAD
    description = {"patch_size": RESIDUAL_PATCH, "architecture": architecture, "classifier": {"width": width, "hidden": hidden}}
    (out / "residual.json").write_text(json.dumps(description, indent=1) + "\n")
    return answers


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", nargs="?", type=Path, default=oracle.REPOSITORY / "tests" / "golden" / "multitask")
    oracle.add_option(ap)
    a = ap.parse_args()
    mm = oracle.load(a.oracle, "make_models")
    mm.torch.set_num_threads(1)
    with mm.torch.no_grad():
        for answers in (make_plain(mm, a.out), make_residual(mm, a.out)):
            for name, tensor in answers.items():
                values = tensor.tolist() if tensor.numel() <= 2 else f"deviation {tensor.float().std():.3f}"
                print(name, list(tensor.shape), values)


if __name__ == "__main__":
    sys.exit(main())
