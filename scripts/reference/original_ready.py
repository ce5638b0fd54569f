#!/usr/bin/env python3
"""The Python original until it could take a case: imports, the weights of all folds, and one tile through each network.

    original_ready.py ORACLE_FOLDER STAGE1_MODEL STAGE2_MODEL

Prints "started" when the script itself begins to run and "ready" at the end.
"""
import sys
from pathlib import Path

print("started", flush=True)
sys.path.insert(0, sys.argv[1])

import ref_nnunet  # noqa: E402
import torch  # noqa: E402

for folder, checkpoint in zip(sys.argv[2:4], ("checkpoint_final.pth", "checkpoint_best_panorama.pth")):
    folds = tuple(range(len(list(Path(folder).glob("fold_*")))))
    predictor = ref_nnunet.load_predictor(folder, folds, checkpoint)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    patch = predictor.configuration_manager.patch_size
    with torch.inference_mode():
        predictor.network(torch.zeros(1, 1, *patch))
print("ready", flush=True)
