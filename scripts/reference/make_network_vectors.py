#!/usr/bin/env python3
"""Write tests/golden/networks/: small residual-encoder networks, their state dicts, and what PyTorch computes with them.

NAME.json holds the network's class and arguments as in plans.json and the patch; NAME.safetensors the parameters that
inference reads under their own names, `input` (1, z, y, x) and `logits` (class, z, y, x). Parameters are random: a network
as nnU-Net initialises it would not see most of its encoder.

Usage: make_network_vectors.py [OUT]     (needs torch, nnunetv2 2.8.1 and safetensors)
"""
import json
import sys
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

import stable_safetensors
from export_weights import inference_tensors

CLASS = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
BLOCKS = "dynamic_network_architectures.building_blocks.residual."
EVERY = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
}
CASES = {
    # Stages: neither stride nor other channels; both; a stride alone; other channels alone.
    "basic": ([8, 16, 12], EVERY | {
        "n_stages": 4, "features_per_stage": [4, 6, 6, 7], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 1, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1]], "n_blocks_per_stage": [1, 2, 1, 2],
        "n_conv_per_stage_decoder": [1, 2, 1], "conv_bias": True, "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "nonlin_kwargs": {"inplace": True}}),
    "bottleneck": ([8, 12, 10], EVERY | {
        "n_stages": 3, "features_per_stage": [6, 9, 9], "kernel_sizes": 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 1, 1]],
        "n_blocks_per_stage": [2, 1, 2], "n_conv_per_stage_decoder": 1, "conv_bias": False,
        "norm_op_kwargs": {"eps": 1e-03, "affine": True}, "nonlin_kwargs": {"negative_slope": 0.1},
        "block": BLOCKS + "BottleneckD", "bottleneck_channels": [2, 3, 5], "stem_channels": 5}),
}


def build(kwargs, seed):
    """The network with random parameters."""
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"] + (["block"] if "block" in kwargs else [])
    torch.manual_seed(seed)
    network = get_network_from_plans(CLASS, kwargs, imported, 1, 3, allow_init=False, deep_supervision=False).eval()
    for name, parameter in network.named_parameters():
        if ".norm." in name or name.endswith("bias"):
            torch.nn.init.uniform_(parameter, *((0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)))
    return network


def main():
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[2]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests" / "golden" / "networks"
    for seed, (name, (patch, kwargs)) in enumerate(CASES.items()):
        network = build(kwargs, seed)
        with torch.no_grad():
            image = torch.randn(1, 1, *patch)
            logits = network(image)
        tensors = {n: t.contiguous() for n, t in inference_tensors(network.state_dict()).items()}
        stable_safetensors.save(tensors | {"input": image[0], "logits": logits[0].contiguous()}, out / f"{name}.safetensors")
        description = {"patch_size": patch, "architecture": {"network_class_name": CLASS, "arch_kwargs": kwargs}}
        (out / f"{name}.json").write_text(json.dumps(description, indent=1) + "\n")
        print(name, len(tensors), "tensors, logits", list(logits.shape), f"deviation {logits.std():.2f}")


if __name__ == "__main__":
    sys.exit(main())
