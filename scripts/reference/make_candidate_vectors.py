#!/usr/bin/env python3
"""Golden vectors for lesion-candidate extraction: small volumes and what report_guided_annotation 0.3.4 finds in them.

Writes volumes.safetensors (float32, z y x) and expected.json next to it: the settings, and for each volume and
setting the confidences (index, bits of the float64) and the sha256 of the detection map (<f4) followed by the index
map (<i4). Needs numpy 2, scipy, safetensors
and report_guided_annotation; every draw is seeded, so the same versions give the same bytes.

usage: make_candidate_vectors.py [tests/golden/candidates]
"""
import contextlib
import hashlib
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage

with contextlib.redirect_stdout(io.StringIO()):
    from report_guided_annotation import extract_lesion_candidates

MODES = ["dynamic-fast", "dynamic-fast-mean", "dynamic", "dynamic-mean", "dynamic-v2", "dynamic-v2-mean"]
VARIATIONS = [
    {},
    {"dynamic_threshold_factor": 15.0},
    {"dynamic_threshold_factor": 1.3, "num_lesions_to_extract": 8},
    {"min_voxels_detection": 0, "num_lesions_to_extract": 10},
    {"remove_adjacent_lesion_candidates": False},
    {"remove_adjacent_lesion_candidates": False, "num_lesions_to_extract": 2, "max_prob_round_decimals": 1},
    {"max_prob_round_decimals": 3, "min_voxels_detection": 3},
]
SETTINGS = [{"threshold": mode, **more} for mode in MODES for more in VARIATIONS] + [
    {"threshold": 0.1, "max_prob_round_decimals": 4},
    {"threshold": 0.1, "max_prob_round_decimals": 0},
    {"threshold": 0.3, "min_voxels_detection": 0},
    {"threshold": 0},
    {"threshold": 1.0, "min_voxels_detection": 0},
]


def speckle():
    """many small blobs of all sizes"""
    rng = np.random.default_rng(11)
    v = ndimage.gaussian_filter(rng.standard_normal((12, 16, 20)), 0.8)
    return np.clip((v - 0.2) / v.max(), 0, 1)


def nested():
    """smooth hills on one another's slopes, so that removed peaks leave rims"""
    rng = np.random.default_rng(12)
    z, y, x = np.indices((10, 16, 16))
    v = np.zeros(z.shape)
    for _ in range(9):
        c, r = rng.uniform(1, [9, 15, 15]), rng.uniform(1.2, 3.2)
        v += rng.uniform(0.02, 0.8) * np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / (2 * r * r))
    return v / max(1, v.max())


def bars():
    """components of exactly 10 and 11 voxels, the smaller ones more probable"""
    v = np.zeros((6, 9, 30))
    v[0, 0, :10], v[0, 4, :11], v[0, 8, :10] = 0.9, 0.6, 0.85
    v[4, 0, 5:16], v[4, 4, 5:15], v[4, 8, 18:29] = 0.6, 0.5, 0.2
    v[2, 4, 29], v[3, 4, 28] = 0.95, 0.3
    return v


def plateaus():
    """equal plateaus touching at corners and edges only, and a twin of the same confidence apart from them"""
    v = np.zeros((9, 12, 12))
    v[0:3, 0:3, 0:3] = v[3:6, 3:6, 3:6] = 0.5
    v[6:9, 3:6, 6:9] = 0.5
    v[0:2, 8:11, 8:11] = 0.5
    v[6:8, 8:11, 0:3] = 0.25
    return v


def negative():
    """tiny negative values around two hills"""
    v = nested() * 0.4
    return np.where(v < 0.03, -np.random.default_rng(13).uniform(0, 1e-6, v.shape), v)


def threshold_ties():
    """values equal to the thresholds in float32, or one unit in the last place away from them"""
    v = np.zeros((4, 8, 16), np.float32)
    peak = np.float32(0.7)
    for row, t in enumerate([peak / np.float32(2.5), peak / np.float32(15), peak / np.float32(1.3), np.float32(0.1)]):
        v[0, 2 * row, :] = t
        v[2, 2 * row, :] = np.nextafter(t, np.float32(0))
        v[2, 2 * row, ::5] = t
    v[0, 0, 3] = peak
    v[0, 7, 15], v[3, 7, 15] = np.float32(0.01), np.nextafter(np.float32(0.01), np.float32(0))
    return v


def specks_then_lesions():
    """single-voxel peaks above five lesions: version 1 gives up after two, version 2 finds all five"""
    v = np.zeros((5, 14, 24))
    for k, p in enumerate([0.9, 0.8, 0.2, 0.19, 0.18]):
        v[1:4, 1 + (k % 2) * 7: 4 + (k % 2) * 7, 1 + (k // 2) * 7: 4 + (k // 2) * 7] = p
    v[0, 5, 5], v[4, 5, 12], v[0, 12, 22] = 0.6, 0.57, 0.52
    return v


def below_the_stop():
    """a hill whose maximum is below the 0.01 that ends dynamic extraction"""
    return nested()[:6] * 0.0095


def half_precision():
    """a softmax that went through float16, as exported by nnU-Net: many equal maxima"""
    return nested().astype(np.float16)


VOLUMES = [speckle, nested, bars, plateaus, negative, threshold_ties, specks_then_lesions, below_the_stop, half_precision]


def expected(volume, setting):
    hard, confidences, index = extract_lesion_candidates(volume.copy(), **setting)
    maps = np.ascontiguousarray(hard, "<f4").tobytes() + np.ascontiguousarray(index, "<i4").tobytes()
    bits = [[int(i), struct.unpack("<Q", struct.pack("<d", c))[0]] for i, c in confidences]
    return {"confidences": bits, "maps_sha256": hashlib.sha256(maps).hexdigest()}


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "tests/golden/candidates")
    volumes = {make.__name__: np.ascontiguousarray(make(), np.float32) for make in VOLUMES}
    volumes["zero"] = np.zeros((3, 4, 5), np.float32)
    results = {name: [expected(v, s) for s in SETTINGS] for name, v in volumes.items()}
    v1, v2 = (results["specks_then_lesions"][SETTINGS.index({"threshold": t})]["confidences"] for t in ("dynamic", "dynamic-v2"))
    assert (len(v1), len(v2)) == (2, 5), (v1, v2)
    save_file(volumes, out / "volumes.safetensors")
    rows = lambda items: "[\n  " + ",\n  ".join(json.dumps(i, separators=(",", ":")) for i in items) + "\n ]"  # noqa: E731
    lines = ",\n".join(f' "{name}": {rows(items)}' for name, items in {"settings": SETTINGS, **results}.items())
    (out / "expected.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
