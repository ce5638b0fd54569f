#!/usr/bin/env python3
"""Time nnU-Net and our program on one GPU, alternating, whole processes; first check that ours is right there.

    bench_gpu.py --binary pdac-cascade --work WORK --budget 420

WORK is what make_gpu_bench.py makes. Both run the whole cascade on the same .pth files and the same scan with mirroring:
nnU-Net as its container does on a GPU (original_gpu.py), ours with --device cuda in float16. The case is timed in pairs; the pair
before them runs one fold, does not count, and tells how many folds (at most --folds) and pairs (at most --pairs) fit into
--budget seconds, all the checks included. Device memory is what the driver says is in use above what was before.

Printed is Markdown; with --write-docs FILE it replaces the section "On a GPU" of that file. Where a figure could not be
measured it says so. --device cpu rehearses everything without a GPU, best with WORK of size tiny; --device cuda --peer-device
cpu is for a device that only our program can use.
"""
import argparse
import datetime
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_cascade
import device_memory
import gpu_report
import make_demo
import oracle

HERE = Path(__file__).parent
TITLE = "On a GPU"
MARGIN = 1.1  # how much longer than estimated a pair may take
# How far the demonstration's result may be from the expected: likelihood, share of the map's voxels that only one has. A voxel
# on the threshold jumps by the whole lesion's value, so the values of those in both alone are compared, with the first.
ALLOWED = {"f16": (5e-3, 0.02), "f32": (1e-3, 0.005)}


class Bench:
    """The options with what the checks and runs share."""

    def __init__(self, a, scratch):
        self.a, self.scratch, self.count = a, scratch, 0
        self.started = time.perf_counter()
        self.ceilings = json.loads(self.python("gpu_ceilings.py", a.peer_device))
        self.memory = device_memory.DeviceMemory(self.ceilings.get("uuid"))
        self.gpu = a.device != "cpu"
        self.precision = "f16" if self.gpu else "f32"
        libraries = os.pathsep.join(filter(None, [a.libraries and str(a.libraries.resolve()), os.environ.get("LD_LIBRARY_PATH")]))
        self.program = [*(["env", f"LD_LIBRARY_PATH={libraries}"] if a.libraries else []), str(a.binary)]

    def python(self, script, *arguments):
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def say(self, *words):
        print(f"[{time.perf_counter() - self.started:5.0f} s]", *words, file=sys.stderr, flush=True)

    def folder(self, name):
        self.count += 1
        return self.scratch / f"{self.count}-{name}"

    def run(self, name, command):
        """Runs it to its end with an --output folder of its own."""
        output = self.folder(name)
        self.memory.start()
        run = bench_cascade.measure(command, output, self.a.threads, self.memory.sample)
        self.say(f"{name}: {run['wall_s']:.2f} s")
        return run | {"output": output, "device_mb": self.memory.peak_mb}

    def ours(self, case, weights, device, precision):
        command = [*self.program, "run", "--input", str(case), "--weights", str(weights), "--device", device, "--precision", precision,
                   "--threads", str(self.a.threads), "--log", "json"]
        run = self.run(f"ours-{device.replace(':', '')}-{precision}", command)
        said = gpu_report.our_run(run["log"], run["wall_s"])
        return run | said | {"network_s": said["stages"]["lesion: networks"], "counted_mb": said["gpu_peak_mb"]}

    def original(self, case, models, folds):
        pancreas, lesion = make_demo.model_folders(models.resolve())
        command = [sys.executable, str(HERE / "original_gpu.py"), str(self.a.oracle), self.a.peer_device, "--input", str(case),
                   "--stage1", str(pancreas), "--stage2", str(lesion), "--folds", folds]
        run = self.run("nnU-Net", command)
        said = gpu_report.original_run(run["log"], run["wall_s"])
        return run | said | {"network_s": said["stages"]["lesion: networks"], "counted_mb": said["reserved_mb"]}

    def recipe(self, models, folds):
        """A weights folder of ours with the .pth models and these folds."""
        options = argparse.Namespace(folds=folds, no_mirroring=False, models=models, weights=oracle.BASELINE)
        return bench_cascade.weights_folder(options, self.folder("recipe"))


# --- correctness ---------------------------------------------------------------------------------------------------------------

def tell(command):
    """Runs one of our commands; what it printed, or the end."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: expected exit status 0, got {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def deviation(one, other):
    """bench_cascade.py's comparison in a process of its own: numpy's memory in this one would count as the next program's peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(bench_cascade.deviation, (one, other))


def check_demonstration(bench, device, precision):
    """Runs test_input and compares with test_output; the run. Ends the program where the result is wrong."""
    case, expected = (oracle.REPOSITORY / name for name in ("test_input", "test_output"))
    run = bench.ours(case, oracle.REPOSITORY / "weights", device, precision)
    strict = ["--expected", str(expected)] if device == "cpu" else []
    tell([*bench.program, "validate", "--output", str(run["output"]), "--input", str(case), *strict])
    check_deviation(f"ours on test_input, {device} {precision}", deviation(expected, run["output"]), precision)
    return run


def check_deviation(name, apart, precision):
    likelihood, voxels = ALLOWED[precision]
    share = apart["voxels_in_one_map_only"] / max(1, apart["voxels_in_both_maps"])
    got = (apart["likelihood_difference"], apart["largest_difference_where_both"], share)
    if not apart["same_geometry"] or got[0] > likelihood or got[1] > likelihood or share > voxels:
        raise SystemExit(f"{name}: expected a likelihood and values within {likelihood} and {voxels:.1%} of the voxels in one map only, "
                         f"got {got[0]:.2e}, {got[1]:.2e} and {share:.2%}: not timed")


def check(bench):
    """Our results on the demonstration, by arithmetic; ends the program where one is wrong."""
    runs = {}
    if bench.gpu:
        for precision in ("f16", "f32"):
            tell([*bench.program, "self-check", "--device", bench.a.device, "--precision", precision, "--threads", str(bench.a.threads)])
            bench.say(f"self-check in {precision}: passed")
            runs[precision] = check_demonstration(bench, bench.a.device, precision)
    runs["cpu"] = check_demonstration(bench, "cpu", "f32")
    return runs


# --- timing --------------------------------------------------------------------------------------------------------------------

def read_ahead(folder):
    """Reads the models once, so that no run waits for the disk."""
    for file in folder.resolve().rglob("*.pth"):
        with file.open("rb") as stored:
            while stored.read(1 << 24):
                pass


def pair(bench, case, models, folds):
    """(nnU-Net's run, ours) with this many folds."""
    names = ",".join(map(str, range(folds)))
    original = bench.original(case, models, names)
    ours = bench.ours(case, bench.recipe(models, names), bench.a.device, bench.precision)
    if ours["network_s"] is None:
        raise SystemExit("our log: expected the events \"preprocessed\" and \"predicted\" of the stage \"lesion\", got none")
    if ours["tiles"] not in (None, original["tiles"] * folds):
        raise SystemExit(f"lesion tiles: expected nnU-Net's {original['tiles']} by {folds} folds, got {ours['tiles']} of ours")
    forwards = original["tiles"] * original["mirrorings"]
    original["fastest_tiles_s"] = forwards / min(original["fold_seconds"])
    for run in (original, ours):
        run["tiles_s"] = forwards * folds / run["network_s"]
    return original, ours


def time_pairs(bench):
    """(warm-up pair, pairs, folds): as many as the budget allows, at least one pair."""
    left = lambda: bench.a.budget - (time.perf_counter() - bench.started)  # noqa: E731
    case, models = bench.a.work / "case", bench.a.work / "models"
    read_ahead(models)
    warm_up = pair(bench, case, models, 1)
    folds = gpu_report.choose_folds(warm_up, left() / MARGIN, bench.a.folds)
    bench.say(f"folds: {folds}; a pair should take {sum(gpu_report.whole_seconds(r, folds) for r in warm_up):.0f} s, {left():.0f} s are left")
    pairs, took = [], 0.0
    while not pairs or (len(pairs) < bench.a.pairs and took * MARGIN <= left()):
        begun = time.perf_counter()
        pairs.append(pair(bench, case, models, folds))
        took = time.perf_counter() - begun
    return warm_up, pairs, folds


# --- report --------------------------------------------------------------------------------------------------------------------

def versions():
    """The versions of nnU-Net and what it stands on."""
    from importlib.metadata import version
    return ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "torch", "numpy", "SimpleITK"))


def machine(bench, device_line):
    c = bench.ceilings
    host = f"{len(os.sched_getaffinity(0))} cores, {bench.a.threads} threads each"
    if "uuid" not in c:
        return f"nnU-Net on the CPU, ours: {device_line}; {host}; {versions()}."
    return (f"{c['name']} (compute capability {c['capability']}, {c['memory_mb']:.0f} MB), driver {bench.memory.driver or 'of unknown version'}, {host}; "
            f"{versions()} (CUDA {c['cuda']}, cuDNN {c['cudnn']}). Ours: {device_line}.")


def device_line(run):
    """What our log says it computes on."""
    lines = gpu_report.json_lines(run["log"])
    return next((line["message"] for line in lines if line.get("message", "").startswith("computing on")), "")


def command_line(a):
    words = ["scripts/gpu_bench.sh", "--binary", a.binary.name, "--work", "WORK", "--budget", str(a.budget), "--device", a.device]
    words += ["--libraries", "LIBRARIES"] if a.libraries else []
    words += ["--peer-device", a.peer_device] if a.peer_device != a.device else []
    return "    " + " ".join(words)


def job_text(bench, warm_up, pairs, folds):
    """What was run, in words."""
    size = (bench.a.work / "size").read_text().strip()
    first = pairs[0][0]
    case = "a synthetic CT of 512 × 512 × 200 voxels, the lesion network at its real width with random weights" if size == "full" else \
        "the demonstration's scan and networks"
    fewer = "" if folds == bench.a.folds else f"; {bench.a.folds} would not have fitted into the budget of {bench.a.budget:.0f} s"
    arithmetic = f"{pairs[0][1]['arithmetic']}; nnU-Net's: {'autocast float16' if bench.a.peer_device != 'cpu' else 'float32'}"
    return (f"The whole cascade on {case}; {first['tiles']} lesion tiles × {first['mirrorings']} mirrored copies × {folds} fold{'s' * (folds > 1)}{fewer}. "
            f"Pairs in turn: {len(pairs)}, ratios are medians of the pairs' ratios. Our arithmetic: {arithmetic}. The pair before them, with one "
            f"fold, took nnU-Net {warm_up[0]['wall_s']:.2f} s and us {warm_up[1]['wall_s']:.2f} s. Ours reads weights while its networks run"
            f"{', and exports while it predicts' if pairs[0][1]['together'] else ''}.")


def memory_text(pairs):
    allocated = gpu_report.middle(o["allocated_mb"] for o, _ in pairs)
    return ("Of nnU-Net's memory the counted is what torch took from the driver, its tensors alone "
            f"{gpu_report.figure(allocated, '{:.0f} MB')} (`torch.cuda.max_memory_allocated`); of ours it is `gpu_peak_mb`.")


def tile_seconds(bench, pairs):
    speeds = {"nnU-Net": [o["tiles_s"] for o, _ in pairs], "nnU-Net, fastest fold": [o["fastest_tiles_s"] for o, _ in pairs],
              "pdac-cascade": [o["tiles_s"] for _, o in pairs]}
    return {name: 1 / gpu_report.middle(s) for name, s in speeds.items()}


def report(bench, checks, small, warm_up, pairs, folds):
    """The section's text."""
    inspected = tell([*bench.program, "inspect", "--weights", str(bench.recipe(bench.a.work / "models", "0"))])
    c = bench.ceilings
    roof = gpu_report.roofline(gpu_report.plan_steps(inspected), 2 if c["type"] == "float16" else 4, c["flops"], c["bandwidth"])
    original, ours = zip(*pairs)
    deviations = {"nnU-Net and ours, the timed case": deviation(original[0]["output"], ours[0]["output"]),
                  "nnU-Net and ours, demonstration": deviation(*(run["output"] for run in small))}
    if bench.gpu:
        deviations |= {f"our float32 on the CPU and {p} on the GPU, demonstration":
                       deviation(checks["cpu"]["output"], checks[p]["output"]) for p in ("f16", "f32")}
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    lines = [f"{date} (UTC), {machine(bench, device_line(ours[0]))}", "", command_line(bench.a), "", job_text(bench, warm_up, pairs, folds), "",
             *gpu_report.table(original, ours), "", memory_text(pairs), "",
             *gpu_report.roofline_lines(roof, c, tile_seconds(bench, pairs)), "", *gpu_report.deviation_lines(deviations)]
    return "\n".join(lines)


def options():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", type=Path, required=True, help="our program, built by scripts/build_cuda.sh")
    ap.add_argument("--work", type=Path, required=True, help="what make_gpu_bench.py made")
    ap.add_argument("--libraries", metavar="DIR", type=Path, help="CUDA's libraries for our program, before LD_LIBRARY_PATH")
    ap.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N (default %(default)s)")
    ap.add_argument("--peer-device", help="nnU-Net's (default: the same)")
    ap.add_argument("--budget", type=float, default=420, help="seconds for everything (default %(default)s)")
    ap.add_argument("--pairs", type=int, default=5, help="at most (default %(default)s)")
    ap.add_argument("--folds", type=int, default=5, help="at most (default %(default)s)")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (default: all)")
    ap.add_argument("--write-docs", metavar="FILE", type=Path, help=f"replace the section \"{TITLE}\" of this file; on a GPU only")
    ap.add_argument("--json", type=Path, help="also write everything measured into this file")
    oracle.add_option(ap)
    a = ap.parse_args()
    a.peer_device = a.peer_device or a.device
    a.binary, a.oracle = a.binary.resolve(), a.oracle.resolve()
    if not (a.work / "size").is_file():
        ap.error(f"--work {a.work}: expected what make_gpu_bench.py makes, got no file \"size\" in it")
    if a.write_docs and "cpu" in (a.device, a.peer_device):
        ap.error("--write-docs: expected both on a GPU, got one on the CPU")
    return a


def main():
    a = options()
    with tempfile.TemporaryDirectory() as tmp:
        bench = Bench(a, Path(tmp))
        checks = check(bench)
        small = pair(bench, oracle.BASELINE / "input", a.work / "demo", a.folds)
        warm_up, pairs, folds = time_pairs(bench)
        text = report(bench, checks, small, warm_up, pairs, folds)
        print(f"## {TITLE}\n\n{text}")
        if a.json:
            plain = {"ceilings": bench.ceilings, "checks": checks, "warm_up": warm_up, "pairs": pairs, "folds": folds}
            a.json.write_text(json.dumps(plain, indent=1, default=str) + "\n")
    if a.write_docs:
        a.write_docs.write_text(gpu_report.replace_section(a.write_docs.read_text(), TITLE, text))


if __name__ == "__main__":
    sys.exit(main())
