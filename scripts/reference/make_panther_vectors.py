#!/usr/bin/env python3
"""Golden vectors for the PANTHER metrics: pairs of tiny masks and what DeepMind's surface-distance 0.1 says of them.

Writes truth/<case>.mha, prediction/<case>.mha and expected.json: for each case, with the spacing of each axis ("right") and with
the spacings of x and z exchanged ("challenge", what the challenge's public script does), the calls of
DIAGNijmegen/PANTHER_baseline, Evaluation/evaluate_local.py, and the means over all cases. Needs surface-distance, scipy,
numpy and SimpleITK; every draw is seeded.

usage: make_panther_vectors.py [tests/golden/panther_evaluation]
"""
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from surface_distance import lookup_tables, metrics

warnings.simplefilter("ignore", DeprecationWarning)  # names that scipy has moved


def ball(shape, center, radius, spacing=(1, 1, 1)):
    """a ball, (z, y, x), radius in the unit of the spacing"""
    grid = np.indices(shape)
    return sum(((grid[a] - center[a]) * spacing[a]) ** 2 for a in range(3)) <= radius**2


def blob(seed, shape, share, sigma=1.5):
    """smooth noise, cut so that this share is inside"""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return noise > np.quantile(noise, 1 - share)


def speckle(seed):
    """every second voxel by chance, so that all neighbourhoods occur"""
    mask = np.random.default_rng(seed).random((15, 16, 17)) < 0.5
    codes = ndimage.correlate(mask.astype(np.uint8), lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL)
    assert len(np.unique(codes)) == 256
    return mask


def one_voxel():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = True
    return mask


def corner_voxel():
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = True
    return mask


SHAPE = (10, 18, 16)
MR = (3.0, 1.25, 1.125)
CASES = {
    "anisotropic-shift": (ball(SHAPE, (4, 8, 7), 7, MR), ball(SHAPE, (5, 9, 8), 6, MR), MR),
    "at-the-border": (ball(SHAPE, (0, 3, 15), 8, MR), ball(SHAPE, (1, 0, 14), 9, MR), MR),
    "everywhere-but-one": (np.ones((4, 5, 6), bool), ~ball((4, 5, 6), (2, 2, 2), 0.5), (2.0, 1.5, 0.7)),
    "identical": (blob(41, SHAPE, 0.1), blob(41, SHAPE, 0.1), (2.5, 0.9, 0.8)),
    "one-voxel": (one_voxel(), corner_voxel(), (5.0, 0.7, 0.6)),
    "several-components": (blob(42, SHAPE, 0.15), blob(43, SHAPE, 0.2), (2.0, 0.9766, 0.8203)),
    "speckle": (speckle(44), speckle(45), (1.7, 1.1, 0.9)),
    "tolerance": (ball(SHAPE, (5, 9, 3), 2.5), ball(SHAPE, (5, 9, 9), 3.5), (1.0, 1.0, 1.0)),
}


def scores(truth, prediction, spacing):
    distances = metrics.compute_surface_distances(truth, prediction, spacing_mm=spacing)
    means = metrics.compute_average_surface_distance(distances)
    volume = np.prod(spacing)
    found = {
        "volumetric_dice": metrics.compute_dice_coefficient(truth, prediction),
        "surface_dice": metrics.compute_surface_dice_at_tolerance(distances, tolerance_mm=5),
        "surface_dice_1mm": metrics.compute_surface_dice_at_tolerance(distances, tolerance_mm=1),
        "hausdorff95": metrics.compute_robust_hausdorff(distances, 95),
        "hausdorff50": metrics.compute_robust_hausdorff(distances, 50),
        "mean_from_truth": means[0],
        "mean_from_prediction": means[1],
        "masd": (means[0] + means[1]) / 2,
        "area_truth": np.sum(distances["surfel_areas_gt"]),
        "area_prediction": np.sum(distances["surfel_areas_pred"]),
        "gt_volume": np.sum(truth) * volume,
        "pred_volume": np.sum(prediction) * volume,
    }
    return {name: float(number) for name, number in found.items()}


def aggregates(cases):
    mean = {f"mean_{k}": float(np.mean([c[k] for c in cases])) for k in ("volumetric_dice", "surface_dice", "hausdorff95", "masd")}
    difference = np.array([c["pred_volume"] - c["gt_volume"] for c in cases])
    return mean | {"tumor_burden_rmse": float(np.sqrt(np.mean(difference**2)))}


def write(path, mask, spacing, value):
    image = sitk.GetImageFromArray((mask * value).astype(np.uint8))
    image.SetSpacing([float(s) for s in reversed(spacing)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def main():
    root = Path(__file__).resolve().parents[2]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests/golden/panther_evaluation"
    expected = {"cases": {}}
    for number, (name, (truth, prediction, spacing)) in enumerate(CASES.items()):
        write(out / "truth" / f"{name}.mha", truth, spacing, 1)
        write(out / "prediction" / f"{name}.mha", prediction, spacing, 1 + number % 2)
        expected["cases"][name] = {
            "right": scores(truth, prediction, spacing),
            "challenge": scores(truth, prediction, spacing[::-1]),
        }
    cases = expected["cases"].values()
    expected["aggregates"] = {order: aggregates([c[order] for c in cases]) for order in ("right", "challenge")}
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
