#!/usr/bin/env python3
"""Time the Python original and our program on one scan, alternating, whole processes.

    bench_cascade.py --binary target/release/pdac-cascade --models WORK/models --runs 3 --threads 2

--models is the folder of .pth models with weights rounded to f16 (`make_demo.py baseline --work WORK` leaves WORK/models), so
that both run the same weights. With --folds or --no-mirroring both run the .pth files themselves, ours by a recipe made for it.
The original runs with nnU-Net's own float16 accumulation unless --accum float32 is given.
Printed are the medians of wall seconds, CPU seconds and peak resident memory (of the process, as the kernel counts it),
their ratios, and how far likelihood and detection map of the two are apart.
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

# numpy and SimpleITK are imported after the last run only: at exec the kernel hands the caller's peak memory on to the child.

SAMPLING_INTERVAL = 0.01  # seconds; also the resolution of the wall times
THREAD_VARIABLES = ("ORACLE_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS",
                    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "nnUNet_def_n_proc")


def commands(a, weights):
    """The two command lines, without --output."""
    stage1, stage2 = make_demo.model_folders(a.models)
    original = [sys.executable, str(Path(__file__).with_name("original_cascade.py")), str(a.oracle), "--input", str(a.input),
                "--stage1", str(stage1), "--stage2", str(stage2), "--accum", a.accum]
    original += ["--folds", a.folds] if a.folds else []
    original += ["--no-mirroring"] if a.no_mirroring else []
    ours = [str(a.binary), "run", "--input", str(a.input), "--weights", str(weights), "--threads", str(a.threads), *a.ours]
    return {"original": original, "ours": ours}


def weights_folder(a, scratch):
    """The weights folder that ours runs: --weights, or one with the .pth models and another recipe."""
    if not a.folds and not a.no_mirroring:
        return a.weights
    target = scratch / "weights" / "panorama"
    target.mkdir(parents=True)
    for folder in make_demo.model_folders(a.models.resolve()):
        (target / folder.parent.name).symlink_to(folder.parent, target_is_directory=True)
    recipe = json.loads((a.weights / "panorama" / "pipeline.json").read_text())
    for stage in ("pancreas", "lesion"):
        model = recipe[stage]["model"]
        model["mirroring"] = model["mirroring"] and not a.no_mirroring
        model["folds"] = [int(f) for f in a.folds.split(",")] if a.folds else model["folds"]
    (target / "pipeline.json").write_text(json.dumps(recipe, indent=1))
    return target.parent


def high_water(pid):
    """Peak resident KiB of a living process since its start, or since it last reset that count (ours does, stage by stage)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def measure(command, output, threads, sample=lambda: None):
    """Runs a command to its end, calling `sample` on the way: {wall_s, cpu_s, peak_mib, log}."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen([*command, "--output", str(output)], stdout=log, stderr=log, env=environment)
        peak = 0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            peak = max(peak, high_water(child.pid))
            sample()
            time.sleep(SAMPLING_INTERVAL)
        _, status, usage = ended
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read().decode(errors="replace")
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}:\n{text}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": max(peak, usage.ru_maxrss) / 1024, "log": text}


def read_outputs(folder):
    """(likelihood, detection map)"""
    import SimpleITK as sitk
    image, = (Path(folder) / "images" / "pdac-detection-map").iterdir()
    return json.loads((Path(folder) / "pdac-likelihood.json").read_text()), sitk.ReadImage(str(image))


def deviation(original, ours):
    """How far the two outputs are apart."""
    import numpy as np
    import SimpleITK as sitk
    (likelihood_a, map_a), (likelihood_b, map_b) = read_outputs(original), read_outputs(ours)
    a, b = sitk.GetArrayFromImage(map_a), sitk.GetArrayFromImage(map_b)
    if a.shape != b.shape:
        raise SystemExit(f"detection maps of shapes {a.shape} and {b.shape}")
    both = (a > 0) & (b > 0)
    return {
        "likelihood_original": likelihood_a, "likelihood_ours": likelihood_b, "likelihood_difference": abs(likelihood_a - likelihood_b),
        "voxels_in_one_map_only": int(np.count_nonzero((a > 0) != (b > 0))), "voxels_in_both_maps": int(np.count_nonzero(both)),
        "largest_difference_where_both": float(np.abs(a - b)[both].max(initial=0.0)),
        "same_geometry": bool(np.allclose(map_a.GetOrigin(), map_b.GetOrigin()) and np.allclose(map_a.GetSpacing(), map_b.GetSpacing())
                              and np.allclose(map_a.GetDirection(), map_b.GetDirection())),
    }


def report(medians, ratios, apart):
    for who, m in medians.items():
        print(f"median {who:8} wall {m['wall_s']:8.2f} s  cpu {m['cpu_s']:8.2f} s  peak {m['peak_mib']:7.0f} MiB")
    print("original / ours:", ", ".join(f"{q} {r:.1f}" for q, r in ratios.items()))
    for name, value in apart.items():
        print(f"{name}: {value}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", type=Path, required=True)
    ap.add_argument("--input", type=Path, default=oracle.BASELINE / "input")
    ap.add_argument("--models", type=Path, required=True, help="folder of the .pth models, rounded to f16")
    ap.add_argument("--weights", type=Path, default=oracle.BASELINE, help="our weights folder (default: tests/golden/baseline)")
    ap.add_argument("--runs", type=int, default=3, help="of each (default %(default)s)")
    ap.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="time the first pair too: for runs of many minutes")
    ap.add_argument("--threads", type=int, default=2, help="of each (default %(default)s)")
    ap.add_argument("--folds", help="e.g. 0: run these folds of both models only")
    ap.add_argument("--no-mirroring", action="store_true", help="run no mirrored tiles")
    ap.add_argument("--ours", nargs="*", default=[], help="further options of our program, e.g. --ours=--precision=bf16")
    ap.add_argument("--accum", choices=["official", "float32"], default="official", help="precision of the original's sums over tiles")
    ap.add_argument("--json", type=Path, help="also write everything measured into this file")
    oracle.add_option(ap)
    a = ap.parse_args()
    a.binary, a.oracle = a.binary.resolve(), a.oracle.resolve()

    print("load average at the start:", *os.getloadavg(), flush=True)
    runs = {"original": [], "ours": []}
    with tempfile.TemporaryDirectory() as tmp:
        weights = weights_folder(a, Path(tmp))
        for k in range(0 if a.warm_up else 1, a.runs + 1):  # pair 0 warms the file cache and does not count
            for who, command in commands(a, weights).items():
                r = measure(command, Path(tmp) / f"{who}{k}", a.threads)
                if who == "original":
                    r["split_s"] = json.loads(r["log"].strip().splitlines()[-1])
                if k:
                    runs[who].append(r)
                print(f"{f'run {k}' if k else 'warm-up'} {who:8} wall {r['wall_s']:8.2f} s  cpu {r['cpu_s']:8.2f} s  peak {r['peak_mib']:7.0f} MiB",
                      {n: round(s, 2) for n, s in r.get("split_s", {}).items()} or "", flush=True)
        apart = deviation(Path(tmp) / "original1", Path(tmp) / "ours1")
    medians = {who: {q: statistics.median(r[q] for r in rs) for q in ("wall_s", "cpu_s", "peak_mib")} for who, rs in runs.items()}
    ratios = {q: medians["original"][q] / medians["ours"][q] for q in medians["ours"]}
    report(medians, ratios, apart)
    if a.json:
        a.json.write_text(json.dumps({"runs": runs, "medians": medians, "ratios": ratios, "deviation": apart}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
