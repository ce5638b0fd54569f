#!/usr/bin/env python3
"""Write tests/data/models/: genuine nnU-Net plans of several models, and one tiny model with genuine checkpoints.

<variant>/{plans,dataset}.json    plans and dataset of the oracle's `make_models.py`, small geometry
tiny/{plans,dataset}.json         a three-stage PlainConvUNet with 2 to 4 features
tiny/fold_0/checkpoint_final.pth  as nnU-Net writes it: optimizer state, log with numpy-1 scalars, storages on cuda:0
tiny/fold_0/checkpoint_<kind>.pth the same weights in other dress: numpy 2, half precision with torch.compile's and
                                  DistributedDataParallel's prefixes, channels_last_3d strides, bfloat16 and pickle
                                  protocol 4
tiny/expected.safetensors         the weights of all those that keep float32

Usage: make_model_fixtures.py ORACLE_FOLDER [OUT]    (needs nnunetv2 2.8.1; ORACLE_FOLDER holds make_models.py)
"""
import copy
import sys
from pathlib import Path

ORACLE = Path(sys.argv[1])
sys.path.insert(0, str(ORACLE))

import make_models as mm  # noqa: E402
import torch  # noqa: E402
from oracle_common import write_json  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

CHECKED = ["panorama1", "panorama2", "panther1", "torchres", "transpose", "regions", "multiphase"]


def tiny():
    kernels, strides = mm.geo(mm.A1, mm.A3, mm.A3), mm.geo(mm.S1, mm.SX, mm.S2)
    arch = mm.arch_entry("PlainConvUNet", [2, 4, 4], kernels, strides, [2, 1, 1], [1, 1])
    config = mm.config_entry("nnUNetPlans", "3d_fullres", (4, 8, 8), (3.0, 1.5, 1.5), ["CTNormalization"], [False],
                             (8, 16, 16), 2, arch=arch)
    return dict(
        plans=mm.plans_entry("Dataset900_Tiny", "nnUNetPlans", {"3d_fullres": config},
                             {"0": mm.intens(40.0, 90.0, -150.0, 250.0)}, (3.0, 1.5, 1.5), (8, 16, 16)),
        dataset={"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "numTraining": 1,
                 "file_ending": ".nii.gz"},
        config="3d_fullres", trainer="nnUNetTrainer", mirror=(0, 1), old_numpy=True)


class Dressed:
    """a network whose state dict went through `change`"""

    def __init__(self, net, change):
        self.net, self.change = net, change

    def state_dict(self):
        return self.change(copy.copy(self.net.state_dict()))

    def parameters(self):
        return self.net.parameters()


def cast(dtype, prefix=""):
    def change(state):
        cache = {}
        out = type(state)()
        for name, value in state.items():  # aliases keep sharing their storage
            out[prefix + name] = cache.setdefault(value.data_ptr(), value.to(dtype))
        return out
    return change


def channels_last(state):
    cache = {}
    for name, value in state.items():
        if value.ndim == 5:
            state[name] = cache.setdefault(value.data_ptr(), value.to(memory_format=torch.channels_last_3d))
    return state


def main():
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2] / "tests/data/models"
    for name in CHECKED:
        v = mm.VARIANTS[name]("tiny")
        write_json(out / name / "plans.json", v["plans"])
        write_json(out / name / "dataset.json", v["dataset"])
    v = tiny()
    write_json(out / "tiny/plans.json", v["plans"])
    write_json(out / "tiny/dataset.json", v["dataset"])
    manager = mm.PlansManager(copy.deepcopy(v["plans"]))
    config = manager.get_configuration(v["config"])
    torch.manual_seed(0)
    net = mm.get_network_from_plans(config.network_arch_class_name, config.network_arch_init_kwargs,
                                    config.network_arch_init_kwargs_req_import, 1, 3, deep_supervision=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    fold = out / "tiny/fold_0"

    def save(kind, net, **changes):
        mm.save_checkpoint(fold / f"checkpoint_{kind}.pth", net, {**v, **changes}, 0, 1, kind == "final", "cuda:0")

    save("final", net)
    save("numpy2", net, old_numpy=False, mirror=None)
    save("half", Dressed(net, cast(torch.float16, "module._orig_mod.")))
    rest = {"trainer_name": v["trainer"], "init_args": {"configuration": v["config"]}}
    weights = channels_last(net.state_dict())
    torch.save({"network_weights": weights, **rest}, fold / "checkpoint_channels_last.pth")
    weights = cast(torch.bfloat16)(net.state_dict())
    torch.save({"network_weights": weights, **rest}, fold / "checkpoint_protocol4.pth", pickle_protocol=4)
    used = {n: t for n, t in net.state_dict().items()
            if ".all_modules." not in n and not n.startswith(("decoder.encoder.", "decoder.seg_layers.0."))}
    save_file({n: t.clone().contiguous() for n, t in used.items()}, out / "tiny/expected.safetensors")


if __name__ == "__main__":
    main()
