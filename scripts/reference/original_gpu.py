#!/usr/bin/env python3
"""The Python original as its container runs it on a GPU, with the seconds of each stage.

    original_gpu.py ORACLE_FOLDER DEVICE <options of ref_panorama.py>

DEVICE is what torch calls it: cuda, cuda:1, cpu. nnU-Net's predictor runs with everything on the device, autocast to float16
and cuDNN's benchmark, none of which it does on a CPU. What the published container does not do is left out (intermediates,
the second segmentation, stage 1's probabilities). The last line on standard error is a JSON object: the seconds in all and of
the imports, and for each stage those of loading the weights, preprocessing, networks (and each fold of them) and export, the
tiles and their mirrored copies; the peak of device memory as torch counts it.
"""
import json
import os
import sys
import time
from pathlib import Path

started = time.perf_counter()
sys.path.insert(0, sys.argv.pop(1))
DEVICE_NAME = sys.argv.pop(1)
visible = os.environ.get("CUDA_VISIBLE_DEVICES")

import oracle_common  # noqa: E402, F401

if visible is None:  # the oracle hides all GPUs; torch looks when it first uses one
    del os.environ["CUDA_VISIBLE_DEVICES"]

import ref_nnunet  # noqa: E402
import ref_panorama  # noqa: E402
import torch  # noqa: E402

DEVICE = torch.device(DEVICE_NAME)
torch.use_deterministic_algorithms(False)  # the oracle asks for them, the container does not
seconds = {"imports": time.perf_counter() - started}
stages = {}
loading = [0.0]


class TimedPredictor(ref_nnunet.nnUNetPredictor):
    """nnU-Net's predictor, which notes each fold's seconds and the number of tiles."""

    def _internal_get_sliding_window_slicers(self, image_size):
        slicers = super()._internal_get_sliding_window_slicers(image_size)
        self.notes["tiles"] = len(slicers)
        return slicers

    def predict_sliding_window_return_logits(self, input_image):
        begun = time.perf_counter()
        logits = super().predict_sliding_window_return_logits(input_image)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)
        self.notes["fold_seconds"].append(time.perf_counter() - begun)
        return logits


def load_predictor(model, folds, checkpoint, mirroring=True, step=0.5, **_):
    begun = time.perf_counter()
    with ref_nnunet.quiet():
        predictor = TimedPredictor(tile_step_size=step, use_mirroring=mirroring, perform_everything_on_device=True, device=DEVICE,
                                   allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), folds, checkpoint)
    axes = predictor.allowed_mirroring_axes if mirroring else None
    predictor.notes = {"fold_seconds": [], "mirrorings": 2 ** len(axes or ())}
    loading[0] = time.perf_counter() - begun
    return predictor


def timed(call, notes, name):
    """The function, which adds its seconds to the notes."""
    def run(*args, **options):
        begun = time.perf_counter()
        result = call(*args, **options)
        notes[name] = notes.get(name, 0.0) + time.perf_counter() - begun
        return result
    return run


def run_case(predictor, files, out, *args, **options):
    stage, notes = Path(out).name, predictor.notes
    originals = ref_nnunet.predict_logits, ref_nnunet.export_prediction_from_logits
    ref_nnunet.predict_logits, ref_nnunet.export_prediction_from_logits = (
        timed(originals[0], notes, "networks"), timed(originals[1], notes, "export"))
    begun = time.perf_counter()
    done = run_original_case(predictor, files, out, *args, **(options | {"debug": False, "argmax_logits": False, "npz": stage == "stage2"}))
    notes["preprocess"] = time.perf_counter() - begun - notes["networks"] - notes["export"]
    ref_nnunet.predict_logits, ref_nnunet.export_prediction_from_logits = originals
    stages[stage] = notes | {"load": loading[0]}
    return done


def peaks():
    """Peak device memory in MB: of the tensors, and of what torch took from the driver for them."""
    if DEVICE.type != "cuda":
        return {"allocated_mb": None, "reserved_mb": None}
    return {"allocated_mb": torch.cuda.max_memory_allocated(DEVICE) / 1e6, "reserved_mb": torch.cuda.max_memory_reserved(DEVICE) / 1e6}


run_original_case = ref_panorama.run_case
ref_panorama.run_case, ref_panorama.load_predictor = run_case, load_predictor
code = ref_panorama.main()
seconds["all"] = time.perf_counter() - started
print(json.dumps(seconds | stages | peaks()), file=sys.stderr)
sys.exit(code)
