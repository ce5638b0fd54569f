#!/usr/bin/env python3
"""Turn a trained nnU-Net v2 model folder (.pth) into the same folder with .safetensors weights.

    export_weights.py MODEL_FOLDER OUT_FOLDER [--folds 0,1,2,3,4] [--checkpoint checkpoint_final] [--dtype f16|f32] [--trainer-name NAME]

OUT_FOLDER gets dataset.json and plans.json as they are, and fold_<k>/<checkpoint>.safetensors with the tensors that
inference reads, each once, under nnU-Net's own names:

- `X.all_modules.<n>.*` and `decoder.encoder.*` are second names of other entries (they share storage) and are left out;
- of `decoder.seg_layers.<s>` only the last is kept: the others serve deep supervision, in training only;
- a classification head (`classifier.*`, see scripts/train/network.py) is kept.

The header's `__metadata__` (strings) carries what else inference takes from a checkpoint: `trainer_name`, `configuration`
and `inference_allowed_mirroring_axes` (JSON: "[0, 1, 2]" or "null"), and `note` where --note is given. --trainer-name puts
another name for the trainer's, where the one that trained differs from it in its schedule only.

--round-source DIR also writes the .pth folder with every weight rounded to the values that f16 can hold, so that the
Python original can run on exactly the weights that are shipped.

Needs torch, numpy and safetensors. Checkpoints are read without executing what is pickled in them.
"""
import argparse
import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from stable_safetensors import save

HEAD = re.compile(r"^decoder\.seg_layers\.(\d+)\.")
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
DTYPES = {"f16": torch.float16, "f32": torch.float32}


def load_checkpoint(path):
    """Checkpoint dictionary on the CPU; only tensors, plain values and numpy scalars are unpickled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core is the old name of numpy._core, and old files use it
        scalar = np._core.multiarray.scalar
        safe = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, np.float64, np.float32,
                np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
        with torch.serialization.safe_globals(safe):
            return torch.load(path, map_location="cpu", weights_only=True)


def without_wrappers(weights):
    """The state dict without the prefixes that torch.compile and DistributedDataParallel put before its names."""
    return {WRAPPERS.sub("", name): t for name, t in weights.items()}


def is_alias_name(name):
    return ".all_modules." in name or name.startswith("decoder.encoder.")


def place(tensor):
    """What two names of one tensor have in common."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def inference_tensors(weights):
    """Ordered {canonical name: tensor} of a state dict, without aliases and training-only heads."""
    kept = {name: t for name, t in weights.items() if not is_alias_name(name)}
    places = {place(t) for t in kept.values()}
    for name, t in weights.items():
        if name in kept or place(t) in places:
            continue
        if not any(t.shape == k.shape and torch.equal(t, k) for k in kept.values()):  # saved without shared storage
            raise SystemExit(f"{name}: looks like a second name, but no canonical tensor holds its values")
    heads = [int(m.group(1)) for m in map(HEAD.match, kept) if m]
    if not heads:
        raise SystemExit("no decoder.seg_layers: not a U-Net of dynamic_network_architectures")
    last = max(heads)
    return {n: t for n, t in kept.items() if not (m := HEAD.match(n)) or int(m.group(1)) == last}


def metadata(checkpoint, note):
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    meta = {
        "trainer_name": checkpoint["trainer_name"],
        "configuration": checkpoint["init_args"]["configuration"],
        "inference_allowed_mirroring_axes": json.dumps(None if axes is None else [int(a) for a in axes]),
    }
    if note:
        meta["note"] = note
    return meta


def round_to_f16(weights):
    """Rounds in place, once per storage, so that aliases stay aliases."""
    for t in weights.values():
        t.copy_(t.half().to(t.dtype))


def fold_names(model, text):
    if text:
        return [f"fold_{f.strip()}" for f in text.split(",")]
    return sorted(p.name for p in model.glob("fold_*") if p.is_dir())


def copy_description(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(source / name, target / name)


def export(model, out, folds=None, checkpoint="checkpoint_final", dtype="f16", note=None, round_source=None, trainer=None):
    """Writes the folder(s); returns the paths of the .safetensors files."""
    model, out = Path(model), Path(out)
    stem = checkpoint.removesuffix(".pth")
    copy_description(model, out)
    if round_source:
        copy_description(model, Path(round_source))
    written = []
    for fold in fold_names(model, folds):
        ck = load_checkpoint(model / fold / f"{stem}.pth")
        ck["network_weights"] = without_wrappers(ck["network_weights"])
        ck["trainer_name"] = trainer or ck["trainer_name"]
        if round_source:
            round_to_f16(ck["network_weights"])
            target = Path(round_source) / fold / f"{stem}.pth"
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(ck, target)
        tensors = {n: t.to(DTYPES[dtype]).clone().contiguous() for n, t in inference_tensors(ck["network_weights"]).items()}
        for name, t in tensors.items():
            if not torch.isfinite(t).all():
                raise SystemExit(f"{fold}/{stem}: {name} does not fit into {dtype}")
        path = out / fold / f"{stem}.safetensors"
        save(tensors, path, metadata(ck, note))
        written.append(path)
    if not written:
        raise SystemExit(f"{model}: no fold_* folder")
    return written


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", help="folder with dataset.json, plans.json, fold_*")
    ap.add_argument("out", help="folder to write")
    ap.add_argument("--folds", help="comma-separated, e.g. 0,1 or all; default: every fold_* folder")
    ap.add_argument("--checkpoint", default="checkpoint_final", help="name of the checkpoint, with or without .pth")
    ap.add_argument("--dtype", choices=sorted(DTYPES), default="f16")
    ap.add_argument("--trainer-name", help="name for the trainer instead of the checkpoint's own")
    ap.add_argument("--note", help="free text for the files' metadata")
    ap.add_argument("--round-source", metavar="DIR", help="also write the .pth folder with weights rounded to f16 values")
    a = ap.parse_args()
    for path in export(a.model, a.out, a.folds, a.checkpoint, a.dtype, a.note, a.round_source, a.trainer_name):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    sys.exit(main())
