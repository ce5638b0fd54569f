#!/usr/bin/env python3
"""Write tests/golden/preprocessing/: what nnU-Net's own DefaultPreprocessor makes of small images.

Each case runs `run_case_npy` (transpose, crop, normalise; the spacing is the target's, so resampling does nothing).
cases.json holds scheme, intensities, transposition and the box; cases.safetensors `<case>.image` (C z y x, as read)
and `<case>.expected` (C z y x, transposed, cropped, normalised).

Usage: make_preprocessing_vectors.py [OUT]     (needs nnunetv2 2.8.1 and safetensors)
"""
import json
import sys
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.numpy import save_file

INTENSITY = {"mean": 42.803375244140625, "std": 93.94111633300781, "percentile_00_5": -152.0, "percentile_99_5": 253.0}
OTHER = {"mean": 109.62067413330078, "std": 77.43933868408203, "percentile_00_5": -55.0, "percentile_99_5": 430.0}
FLAT = {"mean": 10.1, "std": 0.0, "percentile_00_5": 10.0, "percentile_99_5": 10.2}


def body(rng, shape, low, high, box=None, hole=None):
    """noise inside `box`, zero elsewhere and in `hole`"""
    image = np.zeros(shape, np.float32)
    box = box or tuple(slice(0, n) for n in shape)
    image[box] = rng.uniform(low, high, image[box].shape)
    if hole:
        image[hole] = 0
    return image


def cases():
    rng = np.random.default_rng(7)
    cut = np.s_[2:8, 1:10, 3:12]
    hole = np.s_[4:6, 4:7, 6:9]
    yield "ct", ["CTNormalization"], [False], [INTENSITY], [0, 1, 2], [body(rng, (9, 11, 13), -1000, 1500, cut, hole)]
    yield "ct_two_channels", ["CTNormalization"] * 2, [False] * 2, [INTENSITY, OTHER], [0, 1, 2], [
        body(rng, (8, 9, 10), -300, 500, np.s_[1:4, 2:5, 3:6]), body(rng, (8, 9, 10), -300, 500, np.s_[2:7, 4:8, 1:5])]
    yield "ct_zero_std", ["CTNormalization"], [False], [FLAT], [0, 1, 2], [body(rng, (3, 4, 5), 0, 20)]
    yield "zscore", ["ZScoreNormalization"], [False], [INTENSITY], [0, 1, 2], [body(rng, (9, 11, 13), 100, 900, cut, hole)]
    open_hole = np.s_[4:6, 4:7, 3:9]
    yield "zscore_mask_hole", ["ZScoreNormalization"], [True], [INTENSITY], [0, 1, 2], [
        body(rng, (9, 11, 13), 100, 900, cut, hole)]
    yield "zscore_mask_notch", ["ZScoreNormalization"], [True], [INTENSITY], [2, 0, 1], [
        body(rng, (9, 11, 13), 100, 900, cut, open_hole)]
    one = body(rng, (8, 9, 10), 5, 50, np.s_[1:5, 1:5, 1:5])
    two = body(rng, (8, 9, 10), 5, 50, np.s_[3:7, 3:8, 3:9])
    yield "mixed_mask_channels", ["ZScoreNormalization", "CTNormalization"], [True, True], [INTENSITY, OTHER], [1, 2, 0], [one, two]
    yield "all_zero", ["ZScoreNormalization"], [True], [INTENSITY], [0, 1, 2], [np.zeros((3, 4, 5), np.float32)]
    yield "constant", ["ZScoreNormalization"], [False], [INTENSITY], [0, 1, 2], [np.full((3, 4, 5), 7.5, np.float32)]
    yield "none", ["NoNormalization"], [False], [INTENSITY], [2, 1, 0], [body(rng, (4, 5, 6), -5, 5, np.s_[1:3, :, 2:])]
    yield "rescale", ["RescaleTo01Normalization"], [False], [INTENSITY], [0, 1, 2], [body(rng, (4, 5, 6), -70, 900)]
    yield "rescale_constant", ["RescaleTo01Normalization"], [False], [INTENSITY], [0, 1, 2], [np.full((3, 4, 5), -3, np.float32)]
    rgb = [np.floor(body(rng, (4, 5, 6), 0, 256)) for _ in range(3)]
    yield "rgb", ["RGBTo01Normalization"] * 3, [False] * 3, [INTENSITY] * 3, [0, 1, 2], rgb


def preprocess(schemes, masks, intensities, forward, image):
    kwargs = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "spacing": [1.0, 1.0, 1.0], "architecture": {},
        "normalization_schemes": schemes, "use_mask_for_norm": masks,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": kwargs,
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": {**kwargs, "is_seg": True, "order": 1},
    }
    plans = {"transpose_forward": forward, "configurations": {"x": configuration},
             "foreground_intensity_properties_per_channel": {str(i): p for i, p in enumerate(intensities)}}
    manager = PlansManager(plans)
    properties = {"spacing": [1.0, 1.0, 1.0]}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, properties, manager, manager.get_configuration("x"), {})
    return data, [[int(a), int(b)] for a, b in properties["bbox_used_for_cropping"]]


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "tests/golden/preprocessing"
    out.mkdir(parents=True, exist_ok=True)
    tensors, table = {}, {}
    for name, schemes, masks, intensities, forward, channels in cases():
        image = np.stack(channels).astype(np.float32)
        data, box = preprocess(schemes, masks, intensities, forward, image)
        assert data.dtype == np.float32
        tensors[f"{name}.image"] = image
        tensors[f"{name}.expected"] = np.ascontiguousarray(data)
        table[name] = {"schemes": schemes, "use_mask": masks, "intensity": intensities, "transpose_forward": forward, "box": box}
    save_file(tensors, out / "cases.safetensors")
    (out / "cases.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
