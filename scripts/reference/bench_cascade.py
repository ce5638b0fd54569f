#!/usr/bin/env python3
"""Time the Python original's whole process and ours on one case, in turn, and print the ratios.

    bench_cascade.py --binary target/release/pdac-cascade --demo WORK

The original is ref_panorama.py of the oracle folder as nnU-Net runs by default (float16 accumulation), on the same weights.
Each process gets the same number of threads; peak memory is the operating system's figure for the finished process.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import make_demo
import oracle


def measure(command, environment):
    """(wall seconds, peak resident MB) of a finished process; stops on failure"""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {' '.join(map(str, command))}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def deviation(original, ours):
    """Largest difference of the maps and of the likelihoods"""
    import numpy as np
    import SimpleITK as sitk
    maps = []
    for folder in (original, ours):
        file, = (folder / "images" / "pdac-detection-map").glob("*.mha")
        maps.append(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
    numbers = [json.loads((folder / "pdac-likelihood.json").read_text()) for folder in (original, ours)]
    return float(np.abs(maps[0] - maps[1]).max()), abs(numbers[0] - numbers[1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", type=Path, required=True)
    ap.add_argument("--demo", type=Path, required=True, help="--work folder of make_demo.py: the weights as .pth")
    ap.add_argument("--input", type=Path, default=oracle.REPOSITORY / "test_input")
    ap.add_argument("--weights", type=Path, default=oracle.REPOSITORY / "weights")
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    oracle.add_option(ap)
    a = ap.parse_args()
    pancreas, lesion = make_demo.model_folders(a.demo / "models")
    environment = dict(os.environ, ORACLE_THREADS=str(a.threads))
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        theirs, ours = Path(tmp) / "original", Path(tmp) / "ours"
        original = [sys.executable, a.oracle / "ref_panorama.py", "--input", a.input, "--output", theirs,
                    "--stage1", pancreas, "--stage2", lesion]
        own = [a.binary, "run", "--input", a.input, "--output", ours, "--weights", a.weights, "--threads", str(a.threads)]
        for run in range(a.runs + 1):
            pair = measure(original, environment), measure(own, environment)
            print(f"{'warm-up' if run == 0 else run}: original {pair[0][0]:.2f} s {pair[0][1]:.0f} MB, "
                  f"ours {pair[1][0]:.2f} s {pair[1][1]:.0f} MB", flush=True)
            if run:
                rows.append(pair)
        map_difference, likelihood_difference = deviation(theirs, ours)
    median = lambda part, figure: statistics.median(row[part][figure] for row in rows)  # noqa: E731
    print(f"median: original {median(0, 0):.2f} s, {median(0, 1):.0f} MB; ours {median(1, 0):.2f} s, {median(1, 1):.0f} MB")
    print(f"faster by a factor of {statistics.median(r[0][0] / r[1][0] for r in rows):.1f}, "
          f"peak memory 1/{statistics.median(r[0][1] / r[1][1] for r in rows):.0f}")
    print(f"map differs by {map_difference:.2e}, likelihood by {likelihood_difference:.2e} (float16 against float32 accumulation)")


if __name__ == "__main__":
    sys.exit(main())
