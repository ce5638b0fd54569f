#!/usr/bin/env python3
"""Time nnU-Net's resampling and export against ours on a synthetic scan, alternating, one process per run.

    cargo build --release --example time_resampling
    bench_resampling.py --example target/release/examples/time_resampling --runs 3 --threads 2

`image` is `resample_data_or_seg_to_shape` with order 3 as the default preprocessor calls it; `export` is
`convert_predicted_logits_to_segmentation_with_correct_shape` with order 1 and `return_probabilities=True`, on float16 logits.
Both are called on values made by one formula; timed is the call alone. nnU-Net resamples in one thread whatever the number given,
and uses it for the softmax. Printed are medians of seconds, their ratios, the peak resident memory of the processes, and the
largest relative difference of sums over the two results.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# numpy and nnU-Net are imported in workers only: at exec the kernel hands the caller's peak memory on to the child.

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "nnUNet_def_n_proc")
CASES = (  # name, work, spacing of the scan, spacing of the model (z, y, x; mm)
    ("image, all axes", "image", "1,0.8,0.8", "1.5,0.75,0.75"),
    ("image, only z", "image", "1,0.75,0.75", "1.5,0.75,0.75"),
    ("export, all axes", "export", "1,0.8,0.8", "1.5,0.75,0.75"),
    ("export, only z", "export", "1,0.75,0.75", "1.5,0.75,0.75"),
)


def wave(shape, phase):
    """A product of one wave per axis, of amplitude 1, as `examples/time_resampling.rs` makes it."""
    import numpy as np
    z, y, x = (np.sin(step * np.arange(n) + phase) for n, step in zip(shape, (0.11, 0.07, 0.05)))
    return np.stack([(plane * y[:, None] * x).astype(np.float32) for plane in z])


def time_image(shape, model_shape, spacing, model_spacing, heads):
    import numpy as np
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    data = 1000 * wave(shape, 0.0)[None]
    start = time.perf_counter()
    got = resample_data_or_seg_to_shape(data, model_shape, spacing, model_spacing, is_seg=False, order=3, order_z=0, force_separate_z=None)
    seconds = time.perf_counter() - start
    return seconds, [float(got.sum(dtype=np.float64)), float(np.abs(got).sum(dtype=np.float64))]


def time_export(shape, model_shape, spacing, model_spacing, heads):
    import numpy as np
    import torch
    from types import SimpleNamespace
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    configuration = SimpleNamespace(
        spacing=model_spacing,
        resampling_fn_probabilities=partial(resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None))
    labels = LabelManager({"background": 0} | {f"label{i}": i for i in range(1, heads)}, None)
    properties = {"spacing": spacing, "shape_before_cropping": shape, "shape_after_cropping_and_before_resampling": shape,
                  "bbox_used_for_cropping": [[0, n] for n in shape]}
    logits = np.empty((heads, *model_shape), np.float16)
    for head in range(heads):
        logits[head] = 10 * wave(model_shape, float(head))
    logits = torch.from_numpy(logits)
    start = time.perf_counter()
    got, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, properties, return_probabilities=True, num_threads_torch=threads)
    seconds = time.perf_counter() - start
    return seconds, [*map(float, np.bincount(got.ravel(), minlength=heads)), float(probabilities[-1].sum(dtype=np.float64))]


def work(a):
    """What a worker process does: one timed call, printed as the example prints its own."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
    shape, spacing, model_spacing = ([kind(n) for n in text.split(",")]
                                     for kind, text in ((int, a.shape), (float, a.spacing), (float, a.model_spacing)))
    model_shape = [int(n) for n in compute_new_shape(shape, spacing, model_spacing)]
    run = {"image": time_image, "export": time_export}[a.worker]
    seconds, sums = run(shape, model_shape, spacing, model_spacing, a.heads)
    print(json.dumps({"seconds": [seconds], "sums": sums}))


def measure(command, threads):
    """Runs a command to its end: what it printed, and its peak resident memory."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command} ended with {child.returncode}")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1]) | {"peak_mib": usage.ru_maxrss / 1024}


def compare(name, kind, spacing, model_spacing, a):
    """Runs one case alternating and prints its line."""
    sizes = ["--shape", a.shape, "--spacing", spacing, "--model-spacing", model_spacing, "--heads", str(a.heads)]
    commands = {"nnU-Net": [sys.executable, __file__, "--worker", kind, *sizes], "ours": [str(a.example), kind, *sizes, "--runs", "1"]}
    runs = {who: [] for who in commands}
    for _ in range(a.runs):
        for who, command in commands.items():
            runs[who].append(measure(command, a.threads))
    ratios = [n["seconds"][0] / o["seconds"][0] for n, o in zip(runs["nnU-Net"], runs["ours"])]
    median = {who: {"seconds": statistics.median(r["seconds"][0] for r in rs), "peak_mib": max(r["peak_mib"] for r in rs)}
              for who, rs in runs.items()}
    theirs, mine = (runs[who][-1]["sums"] for who in ("nnU-Net", "ours"))
    apart = max(abs(x - y) / max(abs(x), 1) for x, y in zip(theirs, mine, strict=True))
    print(f"{name:18}", *(f"{who} {m['seconds']:7.3f} s {m['peak_mib']:6.0f} MiB " for who, m in median.items()),
          f"ratio {statistics.median(ratios):6.1f}  sums differ by {apart:.1e}", flush=True)
    return {"case": name, "runs": runs, "median": median, "ratio": statistics.median(ratios), "difference": apart}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--example", type=Path, help="the built example time_resampling")
    ap.add_argument("--shape", default="200,512,512", help="voxels of the scan, z,y,x (default %(default)s)")
    ap.add_argument("--heads", type=int, default=7, help="segmentation heads of the exported logits (default %(default)s)")
    ap.add_argument("--runs", type=int, default=3, help="of each (default %(default)s)")
    ap.add_argument("--threads", type=int, default=2, help="of each (default %(default)s)")
    ap.add_argument("--only", default="", help="only the cases whose name contains this")
    ap.add_argument("--json", type=Path, help="also write everything measured into this file")
    ap.add_argument("--worker", choices=["image", "export"], help=argparse.SUPPRESS)
    ap.add_argument("--spacing", help=argparse.SUPPRESS)
    ap.add_argument("--model-spacing", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.worker:
        return work(a)
    if not a.example:
        ap.error("--example is needed")
    print("load average at the start:", *os.getloadavg(), flush=True)
    results = [compare(*case, a) for case in CASES if a.only in case[0]]
    if a.json:
        a.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
