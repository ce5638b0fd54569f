#!/usr/bin/env python3
"""What bench_gpu.py computes from logs and figures: stages of a run, the roofline, tables, the section of the documentation.

Nothing here starts a program or reads a file, so that it can be tested where there is no GPU (test_gpu_report.py).
"""
import json
import re
from datetime import datetime
from math import prod
from statistics import median

NOT_MEASURED = "not measured"
STEP = re.compile(r"^\s+(?P<name>\S+)\s+(?P<what>\S.*?)\s{2,}(?P<inputs>\S+(?: \+\+ \S+)*)\s+-> (?P<output>\S+)\s+"
                  r"(?P<gflop>[\d.]+) GFLOP\s+(?P<mb>[\d.]+) MB")
KERNEL = re.compile(r"\d+(?:×\d+)+")


# --- logs ----------------------------------------------------------------------------------------------------------------------

def json_lines(log):
    """The JSON objects among a log's lines."""
    objects = []
    for line in log.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects


def our_stage_events(lines):
    """Stage -> {event: seconds since the epoch}; of an event that comes again, as after a retry, the last."""
    events, stage = {}, None
    for line in lines:
        if "timestamp" not in line or line.get("message") == "finished":
            continue
        if line.get("message") == "started":
            stage = line["stage"]
        when = datetime.fromisoformat(line["timestamp"]).timestamp()
        events.setdefault(stage, {})[line.get("message", "")] = when
    return events


def between(events, first, last):
    """Seconds from one event to another, None where the log lacks one of them."""
    return events[last] - events[first] if first in events and last in events else None


def our_run(log, wall):
    """What our program's JSON log says of one run of `wall` seconds."""
    lines = json_lines(log)
    done = next((line for line in lines if line.get("message") == "done"), None)
    if done is None:
        raise SystemExit("our log: expected a last line \"done\", got none")
    seconds = {line["stage"]: line["seconds"] for line in lines if line.get("message") == "finished"}
    events = our_stage_events(lines).get("lesion", {})
    together = "predicted and exported" in events  # the CPU exports plane by plane while it predicts
    stages = {
        "start, imports and weights": wall - seconds["total"] + seconds["prepare"],
        "first stage": seconds["pancreas"],
        "lesion: preprocessing": between(events, "started", "preprocessed"),
        "lesion: networks": between(events, "preprocessed", "predicted and exported" if together else "predicted"),
        "lesion: export": 0.0 if together else between(events, "predicted", "exported"),
    }
    tiles = [line["total"] for line in lines if line.get("message") == "tiles" and line.get("stage") == "lesion"]
    return {"stages": with_rest(stages, wall), "together": together, "arithmetic": done["arithmetic"], "likelihood": done["likelihood"],
            "gpu_peak_mb": done.get("gpu_peak_mb"), "tiles": tiles[-1] if tiles else None}


def original_run(log, wall):
    """What the last line of original_gpu.py says of one run of `wall` seconds."""
    said = json_lines(log)[-1]
    lesion, pancreas = said["stage2"], said["stage1"]
    stages = {
        "start, imports and weights": wall - said["all"] + said["imports"] + pancreas["load"] + lesion["load"],
        "first stage": sum(pancreas[part] for part in ("preprocess", "networks", "export")),
        "lesion: preprocessing": lesion["preprocess"],
        "lesion: networks": lesion["networks"],
        "lesion: export": lesion["export"],
    }
    return {"stages": with_rest(stages, wall), "tiles": lesion["tiles"], "mirrorings": lesion["mirrorings"],
            "fold_seconds": lesion["fold_seconds"], "allocated_mb": said["allocated_mb"], "reserved_mb": said["reserved_mb"]}


def with_rest(stages, wall):
    """The stages with what is left of the wall time, which is unknown where a part is."""
    parts = list(stages.values())
    return stages | {"reading, candidates, writing": None if None in parts else wall - sum(parts)}


# --- roofline ------------------------------------------------------------------------------------------------------------------

def plan_steps(inspected, section="lesion"):
    """The steps of one model's network in the output of `inspect`: [{gflop, activation_mb (float32), weights}]."""
    steps, inside = [], False
    for line in inspected.splitlines():
        if line and not line[0].isspace():
            inside = line.startswith(f"{section}:")
        found = STEP.match(line) if inside else None
        if found:
            kernel = KERNEL.search(found["what"])
            channels = sum(int(shape.split("×")[-1]) for shape in found["inputs"].split(" ++ "))
            taps = prod(map(int, kernel[0].split("×"))) if kernel else 0
            steps.append({"gflop": float(found["gflop"]), "activation_mb": float(found["mb"]),
                          "weights": taps * channels * int(found["output"].split("×")[-1])})
    if not steps:
        raise SystemExit(f"inspect: expected the steps of the model \"{section}\" with GFLOP and MB, got none")
    return steps


def roofline(steps, bytes_a_value, flops, bandwidth):
    """The least seconds of one tile: each step at the slower of products and of its input, weights and output moved once."""
    gflop = sum(s["gflop"] for s in steps)
    moved = [s["activation_mb"] * 1e6 / 4 * bytes_a_value + s["weights"] * bytes_a_value for s in steps]
    least = sum(max(s["gflop"] * 1e9 / flops, b / bandwidth) for s, b in zip(steps, moved))
    return {"gflop": gflop, "mb": sum(moved) / 1e6, "least_s": least}


def shares(roof, seconds_a_tile, flops, bandwidth):
    """Achieved TFLOP/s and GB/s and their shares of the ceilings."""
    achieved, moved = roof["gflop"] * 1e9 / seconds_a_tile, roof["mb"] * 1e6 / seconds_a_tile
    return {"tflops": achieved / 1e12, "of_products": achieved / flops, "gbs": moved / 1e9, "of_copying": moved / bandwidth,
            "of_roofline": roof["least_s"] / seconds_a_tile}


# --- plan of the measurement ---------------------------------------------------------------------------------------------------

def whole_seconds(run, folds):
    """Estimated wall seconds with `folds` folds of a run that had one: only the networks' time grows."""
    return run["wall_s"] + (folds - 1) * run["network_s"]


def choose_folds(warm_up, left, most):
    """The most folds with which one pair fits into the seconds that are left, one in any case."""
    fits = [f for f in range(1, most + 1) if sum(whole_seconds(r, f) for r in warm_up) <= left]
    return max(fits, default=1)


# --- tables --------------------------------------------------------------------------------------------------------------------

def middle(values):
    """The median of what was measured, None where a run lacks it."""
    values = list(values)
    return None if not values or None in values else median(values)


def figure(value, form="{:.2f}"):
    return NOT_MEASURED if value is None else form.format(value)


def row(name, original, ours, form="{:.2f}", ratio=None):
    """A line of the table; `ratio` is a number, or None to leave it empty."""
    return f"| {name} | {figure(original, form)} | {figure(ours, form)} | {'' if ratio is None else f'{ratio:.2f}'} |"


def ratio(original, ours):
    return original / ours if original is not None and ours else None


def paired(original, ours, of):
    """The median of the pairs' ratios original / ours of one quantity."""
    return middle(ratio(of(a), of(b)) for a, b in zip(original, ours))


def stage_rows(original, ours):
    rows = []
    for name in original[0]["stages"]:
        of = lambda run: run["stages"][name]  # noqa: B023, E731
        rows.append(row(f"{name}, s", middle(map(of, original)), middle(map(of, ours)), ratio=paired(original, ours, of)))
    return rows


def table(original, ours):
    """The comparison's lines: runs are dictionaries with wall_s, cpu_s, peak_mib, device_mb, tiles_s, stages."""
    lines = ["| median of the runs | nnU-Net | pdac-cascade | nnU-Net / ours, of speeds ours / nnU-Net |", "|---|---|---|---|"]
    for name, key, form in (("whole process, s", "wall_s", "{:.2f}"), ("CPU time, s", "cpu_s", "{:.2f}")):
        of = lambda run: run[key]  # noqa: B023, E731
        lines.append(row(name, middle(map(of, original)), middle(map(of, ours)), form, paired(original, ours, of)))
    lines += stage_rows(original, ours)
    speeds = [middle(r["tiles_s"] for r in runs) for runs in (original, ours)]
    lines.append(row("lesion networks, tiles a second", *speeds, "{:.1f}", ratio(*reversed(speeds))))
    fastest = middle(r["fastest_tiles_s"] for r in original)
    lines.append(row("nnU-Net's fastest fold and all of ours, tiles a second", fastest, speeds[1], "{:.1f}", ratio(speeds[1], fastest)))
    return lines + memory_rows(original, ours)


def largest(values):
    """The largest of what was measured, None where a run lacks it."""
    values = list(values)
    return None if not values or None in values else max(values)


def memory_rows(original, ours):
    """The largest of all runs."""
    rows = []
    for name, key in (("device memory above idle, peak, MB", "device_mb"), ("device memory as the program counts it, peak, MB", "counted_mb"),
                      ("host memory, peak, MiB", "peak_mib")):
        values = [largest(run[key] for run in runs) for runs in (original, ours)]
        rows.append(row(name, *values, "{:.0f}", ratio(*values)))
    return rows


def roofline_lines(roof, ceilings, seconds):
    """seconds: name -> seconds of one tile, or None."""
    lines = [f"One tile: {roof['gflop']:.4g} GFLOP and {roof['mb']:.4g} MB (input, weights and output of each step moved once, "
             f"{ceilings['type']}), at least {roof['least_s'] * 1e3:.2f} ms. Ceilings of the same run: {ceilings['flops'] / 1e12:.3g} TFLOP/s in a "
             f"matrix product of {ceilings['matrix']}, {ceilings['bandwidth'] / 1e9:.3g} GB/s copying (read and written).", "",
             "| | ms a tile | TFLOP/s | of the products | GB/s | of the copying | of the roofline |", "|---|---|---|---|---|---|---|"]
    for name, tile in seconds.items():
        if tile is None:
            lines.append(f"| {name} |" + f" {NOT_MEASURED} |" * 6)
            continue
        s = shares(roof, tile, ceilings["flops"], ceilings["bandwidth"])
        lines.append(f"| {name} | {tile * 1e3:.2f} | {s['tflops']:.3g} | {s['of_products']:.1%} | {s['gbs']:.3g} | {s['of_copying']:.1%} "
                     f"| {s['of_roofline']:.1%} |")
    return lines


def deviation_lines(deviations):
    """deviations: name -> what bench_cascade.deviation returns."""
    lines = ["| results | likelihoods | apart by | voxels in one map only | in both | largest difference there |", "|---|---|---|---|---|---|"]
    for name, d in deviations.items():
        lines.append(f"| {name} | {d['likelihood_original']:.6f}, {d['likelihood_ours']:.6f} | {d['likelihood_difference']:.1e} "
                     f"| {d['voxels_in_one_map_only']} | {d['voxels_in_both_maps']} | {d['largest_difference_where_both']:.1e} |")
    return lines


def replace_section(text, title, body):
    """The Markdown text with the section "## title" replaced by `body`, or appended where there is none."""
    section = f"## {title}\n\n{body.strip()}\n"
    kept, inside, found = [], False, False
    for line in text.splitlines():
        if line.startswith("## "):
            inside = line == f"## {title}"
            if inside and not found:
                kept += [*section.splitlines(), ""]
                found = True
        if not inside:
            kept.append(line)
    if not found:
        kept += ["", *section.splitlines()]
    return "\n".join(kept).rstrip("\n") + "\n"
