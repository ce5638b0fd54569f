#!/usr/bin/env python3
"""Golden vectors for the PANORAMA metrics: tiny label volumes and detection maps, and what picai_eval 1.4 says of them.

Writes truth/<case>.mha, prediction/<case>.mha and expected.json: for several smallest overlaps picai_eval's full dictionary with both
curves and the sensitivities at false positives per case; the same by likelihoods and by the ways to join a classification head's
probability to the map; bootstrap intervals. Truths hold labels 0 to 6, of which 1 is a lesion. Among the cases are equal
confidences, lesions that touch by a corner, candidates of equal overlap with one lesion, one candidate over several lesions, and cases
without lesions, without candidates, without either. Needs picai_eval, numpy and SimpleITK; every draw is seeded.

usage: make_panorama_vectors.py [tests/golden/panorama_evaluation]
"""
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from picai_eval import Metrics, evaluate

SHAPE = (7, 20, 22)
SPACING = (3.0, 0.8, 0.7)  # z, y, x
CASES = 48
OVERLAPS = ("0.1", "0.15", "0.5")
RATES = ("0.125", "0.25", "0.5", "1", "2")
CONFIDENCES = np.array([0.2, 0.35, 0.5, 0.5, 0.65, 0.8, 0.95], np.float32)
BOOTSTRAPS = 4000


def box(rng, smallest=2, largest=6):
    size = [int(rng.integers(smallest, min(largest, n) + 1)) for n in SHAPE]
    start = [int(rng.integers(0, n - s + 1)) for n, s in zip(SHAPE, size)]
    return [slice(a, a + s) for a, s in zip(start, size)]


def shifted(rng, where, by=1):
    """a box moved and resized by a few voxels, inside the volume"""
    moved = []
    for part, n in zip(where, SHAPE):
        start = min(max(part.start + int(rng.integers(-by, by + 1)), 0), n - 1)
        stop = min(max(part.stop + int(rng.integers(-by, by + 1)), start + 1), n)
        moved.append(slice(start, stop))
    return moved


def lesions(rng, kind):
    """boxes of the truth; two of `touching` share a corner only"""
    if kind == "none":
        return []
    if kind == "touching":
        return [[slice(1, 3), slice(3, 7), slice(3, 7)], [slice(3, 5), slice(7, 11), slice(7, 11)]]
    return [box(rng, 3, 7) for _ in range(int(rng.integers(1, 4)))]


def candidates(rng, kind, truth):
    if kind == "none":
        return []
    found = [shifted(rng, where) for where in truth if rng.random() < 0.75]
    if kind == "halves" and truth:  # two candidates of one size, a plane of one voxel between them
        z, y, x = truth[0]
        middle = (x.start + x.stop) // 2
        width = min(middle - x.start, x.stop - middle - 1)
        found = [[z, y, slice(middle - width, middle)], [z, y, slice(middle + 1, middle + 1 + width)]]
    if kind == "over-all" and truth:
        found = [[slice(min(w[a].start for w in truth), max(w[a].stop for w in truth)) for a in range(3)]]
    return found + [box(rng, 1, 4) for _ in range(int(rng.integers(0, 3)))]


def is_detection_map(volume):
    try:
        evaluate([volume], [np.zeros(SHAPE)], num_parallel_calls=1)
    except ValueError:
        return False
    return True


def draw(rng, number):
    truth_kind = ("some", "none", "some", "touching", "none")[number % 5]
    map_kind = ("some", "halves", "some", "over-all", "none", "some", "halves")[number % 7]
    while True:
        boxes = lesions(rng, truth_kind)
        truth = np.zeros(SHAPE, np.uint8)
        for _ in range(3):
            truth[tuple(box(rng))] = rng.integers(2, 7)
        for where in boxes:
            truth[tuple(where)] = 1
        volume = np.zeros(SHAPE, np.float32)
        for where in candidates(rng, map_kind, boxes):
            even = rng.random() < 0.7
            volume[tuple(where)] = rng.choice(CONFIDENCES) if even else np.float32(rng.random())
        if is_detection_map(volume):
            return truth, volume


def write(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(SPACING)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def plain(value):
    """for JSON: infinity becomes null"""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, (int, np.integer)):
        return int(value)
    return None if math.isinf(value) else float(value)


def summary(metrics):
    froc = {rate: metrics.lesion_TPR_at_FPR(float(rate)) for rate in RATES}
    return {"auroc": metrics.auroc, "AP": metrics.AP, "froc": froc}


def full(metrics):
    answer = metrics.full_dict() | summary(metrics)
    answer |= {"case_TPR": metrics.case_TPR, "case_FPR": metrics.case_FPR}
    answer.pop("picai_eval_version")
    return answer


def rescored(metrics, scores, confidence):
    """the metrics with other scores of the cases and other confidences of the candidates"""
    results = {
        case: [(lesion, confidence(case, c) if c > 0 else 0.0, overlap) for lesion, c, overlap in found]
        for case, found in metrics.lesion_results.items()
    }
    return Metrics(lesion_results=results, case_target=metrics.case_target, case_pred=scores)


def multi_task(metrics, heads):
    """the probabilities of a multi-task run that takes means, and the metrics by each"""
    maps = {case: float(score) for case, score in metrics.case_pred.items()}
    joined = {case: (heads[case] + maps[case]) / 2 for case in maps}
    return {
        "heads": heads,
        "maps": maps,
        "joined": joined,
        "variants": {
            "head alone": summary(rescored(metrics, heads, lambda case, c: heads[case])),
            "map alone": summary(metrics),
            "joined": summary(rescored(metrics, joined, lambda case, c: (heads[case] + c) / 2)),
        },
    }


def main():
    warnings.simplefilter("error", RuntimeWarning)
    root = Path(__file__).resolve().parents[2]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests/golden/panorama_evaluation"
    rng = np.random.default_rng(20261)
    names = [f"case-{number:02}" for number in range(CASES)]
    drawn = [draw(rng, number) for number in range(CASES)]
    for name, (truth, volume) in zip(names, drawn):
        write(out / "truth" / f"{name}.mha", truth)
        write(out / "prediction" / f"{name}.mha", volume)
    scored = {}
    for overlap in OVERLAPS:
        maps, truths = [volume for _, volume in drawn], [(truth == 1).astype(np.int32) for truth, _ in drawn]
        scored[overlap] = evaluate(maps, truths, subject_list=names, min_overlap=float(overlap), num_parallel_calls=1)
    metrics = scored["0.1"]
    # Two digits, so that some are equal.
    heads = {case: round(float(rng.beta(2 + 2 * metrics.case_target[case], 4)), 2) for case in names}
    intervals = metrics.bootstrap_score_ci(BOOTSTRAPS, seed=0)
    expected = {
        "overlaps": {overlap: full(metrics) for overlap, metrics in scored.items()},
        "multi_task": multi_task(metrics, heads),
        "bootstrap": {"samples": BOOTSTRAPS, "auroc": intervals["auroc_95_ci"], "AP": intervals["ap_95_ci"]},
    }
    (out / "expected.json").write_text(json.dumps(plain(expected), indent=1) + "\n")


if __name__ == "__main__":
    main()
