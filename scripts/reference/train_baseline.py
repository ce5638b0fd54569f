#!/usr/bin/env python3
"""Train the small networks that stand in for the PANORAMA baseline in tests: make_models.py's tiny PANORAMA variants, a little narrower.

    train_baseline.py --out RESULTS            # both stages, five folds, one thread each: some ten minutes
    train_baseline.py --out RESULTS --stage panorama1

Everything but the width is what `make_models.py panorama1 panorama2 --size tiny --seed 0` makes: genuine nnU-Net v2
trained-model folders, trained for a few minutes on synthetic phantoms.
"""
import argparse
import os
import sys

import oracle

WIDEST = 24  # features of the deepest stages; 32 in make_models.py, with which ten folds would exceed 4 MB


def narrowed(variant):
    """`variant` of make_models.py with at most WIDEST features"""
    def make(size):
        v = variant(size)
        for configuration in v["plans"]["configurations"].values():
            if "UNet_class_name" in configuration:
                configuration["unet_max_num_features"] = min(WIDEST, configuration["unet_max_num_features"])
            else:
                kw = configuration["architecture"]["arch_kwargs"]
                kw["features_per_stage"] = [min(WIDEST, f) for f in kw["features_per_stage"]]
        return v
    return make


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True, help="folder that plays the part of nnUNet_results")
    ap.add_argument("--stage", choices=["panorama1", "panorama2"], action="append", help="default: both")
    ap.add_argument("--seed", type=int, default=0)
    oracle.add_option(ap)
    a = ap.parse_args()
    os.environ.setdefault("ORACLE_THREADS", "1")
    mm = oracle.load(a.oracle, "make_models")
    mm.torch.set_num_threads(1)
    for name in a.stage or ["panorama1", "panorama2"]:
        mm.VARIANTS[name] = narrowed(mm.VARIANTS[name])
        print(mm.build_variant(name, "tiny", a.seed, a.out, range(5), False, "cuda:0"))


if __name__ == "__main__":
    sys.exit(main())
