#!/usr/bin/env python3
"""Time one network on one patch: PyTorch, OpenVINO and ours, in turn, on the same threads.

    bench_cpu.py MODEL --binary target/release/examples/time_network --rounds 5 --threads 2

MODEL is an nnU-Net model folder (`make_models.py panorama2 --size full --folds 0 --no-momentum` of the oracle folder makes the
PANORAMA lesion network at its real width: 0.95 TFLOP a patch). Every engine is a process of its own that stays alive; a round runs
each of them once, one after the other, after a warm-up that does not count. Printed are the machine, which kernels the engines
chose, how far their logits are from PyTorch's in float32, and a table of the median seconds with the medians of the rounds' ratios.

Sets of rows: `default` lets everybody use what the processor has; `avx512` and `avx2` hold everybody to that instruction set
(oneDNN, which PyTorch and OpenVINO convolve with, by ONEDNN_MAX_CPU_ISA; PyTorch's own loops by ATEN_CPU_CAPABILITY).
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# The sets of rows: environment that holds oneDNN and PyTorch, our options.
SETS = {
    "default": ({}, []),
    "avx512": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"}, ["--cpu-isa", "avx512"]),
    "avx2": ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, ["--cpu-isa", "avx2"]),
}
FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
PAUSE = 1.0  # seconds between two engines, for the idle one's threads to fall asleep


def engines(name, flags):
    """Engine -> precision, of one set of rows."""
    if name != "default":
        return {"torch-f32": "f32", "openvino-f32": "f32", "ours-f32": "f32"}
    ours = {"ours-f32": "f32"} | ({"ours-bf16": "bf16"} if "amx_bf16" in flags else {})
    return {"torch-f32": "f32", "torch-bf16": "bf16", "openvino-f32": "f32", "openvino-default": "default"} | ours


# --- the workers: one process each ---------------------------------------------------------------------------------------------

def network(folder, checkpoint):
    """The folder's network with the weights of fold 0, for inference."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = PlansManager(str(folder / "plans.json"))
    saved = torch.load(folder / "fold_0" / f"{checkpoint}.pth", map_location="cpu", weights_only=False)
    configuration = plans.get_configuration(saved["init_args"]["configuration"])
    net = get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, len(dataset["channel_names"]),
        plans.get_label_manager(dataset).num_segmentation_heads, allow_init=False, deep_supervision=False)
    net.load_state_dict(saved["network_weights"], strict=False)
    return net.eval()


def count(names):
    """The names, most frequent first, with how often."""
    return ", ".join(f"{n} × {name}" for name, n in Counter(names).most_common())


def torch_engine(net, image, threads, precision):
    """A function that runs the network, and the names of the convolution kernels that oneDNN chose."""
    import torch
    torch.set_num_threads(threads)
    x = torch.from_numpy(image)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return net(x).float().numpy()
    with tempfile.TemporaryFile() as log:  # oneDNN prints to the C library's standard output
        kept = os.dup(1)
        os.dup2(log.fileno(), 1)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            run()
        os.dup2(kept, 1)
        log.seek(0)
        lines = log.read().decode(errors="replace")
    return run, count(re.findall(r"^onednn_verbose.*?exec,cpu,(?:de)?convolution,([^,]+),", lines, re.M)) or "none of oneDNN's"


def openvino_engine(net, image, threads, precision):
    """A function that runs the network, and the names of the convolution kernels that were compiled."""
    import openvino as ov
    import torch
    options = {"INFERENCE_NUM_THREADS": threads} | ({"INFERENCE_PRECISION_HINT": "f32"} if precision == "f32" else {})
    model = ov.convert_model(net, example_input=torch.from_numpy(image), input=list(image.shape))
    compiled = ov.Core().compile_model(model, "CPU", options)
    layers = (op.get_rt_info() for op in compiled.get_runtime_model().get_ops())
    kinds = [str(i["primitiveType"].astype(str)) for i in layers if i["layerType"].astype(str) in ("Convolution", "Deconvolution")]
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return (lambda: compiled([image])[0]), f"{chosen}: {count(kinds)}"


def high_water(pid):
    """Peak resident MiB of a living process."""
    return int(re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1]) / 1024


def work(a):
    """Says that it is ready, then runs once for every line on standard input."""
    import numpy as np
    image = np.load(a.patch)
    engine, precision = a.worker.split("-")
    make = {"torch": torch_engine, "openvino": openvino_engine}[engine]
    run, kernels = make(network(a.model, a.checkpoint), image, a.threads, precision)
    run()
    print(json.dumps({"ready": True, "kernels": kernels}), flush=True)
    logits = None
    for _ in sys.stdin:
        started = time.perf_counter()
        logits = run()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    np.save(a.logits, logits[0])


# --- the master ----------------------------------------------------------------------------------------------------------------

class Engine:
    """A worker process."""

    def __init__(self, a, name, held, options, scratch):
        self.name, self.file = name, scratch / f"{name}.{'safetensors' if name.startswith('ours') else 'npy'}"
        if name.startswith("ours"):
            command = [str(a.binary), str(a.model), "--checkpoint", a.checkpoint, "--threads", str(a.threads), "--on-line",
                       "--precision", name.removeprefix("ours-"), "--dump", str(self.file), *options]
        else:
            command = [sys.executable, __file__, str(a.model), "--checkpoint", a.checkpoint, "--threads", str(a.threads), "--worker", name,
                       "--patch", str(scratch / "patch.npy"), "--logits", str(self.file)]
        environment = os.environ | held | {"OMP_NUM_THREADS": str(a.threads), "MKL_NUM_THREADS": str(a.threads)}
        self.log = open(scratch / f"{name}.log", "w+")
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True)
        self.kernels = self.answer().get("kernels", "")

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended with {self.child.wait()}:\n{self.log.read()}")
        return json.loads(line)

    def run(self):
        """Seconds of one run."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return self.answer()["seconds"]

    def finish(self):
        """Ends the process; keeps its peak memory and what it says at the end."""
        self.peak_mib = high_water(self.child.pid)
        rest, _ = self.child.communicate()
        if self.child.returncode:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended with {self.child.returncode}:\n{self.log.read()}")
        if rest.strip():
            last = json.loads(rest.strip().splitlines()[-1])
            self.kernels, self.gflop = f"{last['isa']} {last['precision']}", last["gflop"]

    def logits(self):
        """(heads, z, y, x)"""
        import numpy as np
        from safetensors.numpy import load_file
        return np.load(self.file) if self.file.suffix == ".npy" else np.moveaxis(load_file(self.file)["logits"], -1, 0)


def machine():
    """Model name and flags."""
    text = Path("/proc/cpuinfo").read_text()
    present = re.search(r"^flags\s*:(.*)", text, re.M)[1].split()
    return re.search(r"^model name\s*:\s*(.*)", text, re.M)[1], [f for f in FLAGS if f in present]


def make_patch(a, scratch):
    """Lets our program make the patch and writes it where the workers read it: (1, channels, z, y, x)."""
    import numpy as np
    from safetensors.numpy import load_file
    file = scratch / "patch.safetensors"
    subprocess.run([str(a.binary), str(a.model), "--checkpoint", a.checkpoint, "--warm-up", "0", "--runs", "1", "--threads", str(a.threads),
                    "--dump", str(file)], check=True, stdout=subprocess.DEVNULL)
    np.save(scratch / "patch.npy", load_file(file)["input"][None])


def measure(a, name, flags, scratch):
    """One set of rows: engine -> {seconds, ratios, ...}."""
    import numpy as np
    held, options = SETS[name]
    precisions = {n: p for n, p in engines(name, flags).items() if not a.engines or n in a.engines}
    started = [Engine(a, n, held, options, scratch) for n in precisions]
    seconds = {e.name: [] for e in started}
    for k in range(a.rounds):
        for e in started:
            time.sleep(PAUSE)
            seconds[e.name].append(e.run())
        print(f"{name} round {k + 1}:", ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    for e in started:
        e.finish()
    logits = {e.name: e.logits() for e in started}
    reference = logits.get("torch-f32")
    gflop = next((e.gflop for e in started if e.name.startswith("ours")), None)
    rows = {}
    for e in started:
        ours = seconds.get("ours-bf16" if precisions[e.name] != "f32" and "ours-bf16" in seconds else "ours-f32")
        rows[e.name] = {
            "seconds_of_rounds": seconds[e.name], "seconds": statistics.median(seconds[e.name]), "peak_mib": e.peak_mib, "kernels": e.kernels,
            "ratio": ours and statistics.median(s / o for s, o in zip(seconds[e.name], ours)), "gflop": gflop,
            "difference": None if reference is None else float(np.abs(logits[e.name] - reference).max()),
            "deviation": float(logits[e.name].std()),
        }
    return rows


def table(results):
    """The rows as Markdown."""
    yield "| instruction set | engine | s a patch (median) | GFLOP/s | of our time | peak MiB | largest difference of logits |"
    yield "|---|---|---|---|---|---|---|"
    show = lambda value, form: "" if value is None else format(value, form)
    for name, rows in results.items():
        for engine, r in rows.items():
            rate = r["gflop"] and r["gflop"] / r["seconds"]
            yield (f"| {name} | {engine} | {r['seconds']:.2f} | {show(rate, '.0f')} | {show(r['ratio'], '.2f')} | {r['peak_mib']:.0f} "
                   f"| {show(r['difference'], '.1e')} |")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=Path, help="nnU-Net model folder with fold_0")
    ap.add_argument("--binary", type=Path, default=Path("target/release/examples/time_network"), help="our program (default: %(default)s)")
    ap.add_argument("--checkpoint", default="checkpoint_final", help="name without .pth (default: %(default)s)")
    ap.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    ap.add_argument("--threads", type=int, default=2, help="of each engine (default: %(default)s)")
    ap.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="sets of rows (default: all)")
    ap.add_argument("--engines", nargs="+", help="only these, for example torch-f32 ours-f32")
    ap.add_argument("--json", type=Path, help="also write everything measured into this file")
    ap.add_argument("--worker", help=argparse.SUPPRESS)
    ap.add_argument("--patch", type=Path, help=argparse.SUPPRESS)
    ap.add_argument("--logits", type=Path, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.worker:
        work(a)
        return
    a.binary, a.model = a.binary.resolve(), a.model.resolve()
    model, flags = machine()
    print(f"{model}; {os.cpu_count()} processors; {' '.join(flags)}")
    print("load average at the start:", *os.getloadavg(), flush=True)
    results = {}
    with tempfile.TemporaryDirectory() as tmp:
        make_patch(a, Path(tmp))
        for name in a.sets:
            needed = {"avx512": "avx512f", "avx2": "avx2"}.get(name)
            if needed and needed not in flags:
                print(f"{name}: skipped, the processor lacks it")
                continue
            results[name] = measure(a, name, flags, Path(tmp))
    if "amx_bf16" not in flags:
        print("AMX rows: skipped, the processor has none; `default` is what it has")
    for name, rows in results.items():
        for engine, r in rows.items():
            print(f"{name} {engine}: deviation of the logits {r['deviation']:.3f}; kernels: {r['kernels']}")
    print(*table(results), sep="\n")
    if a.json:
        a.json.write_text(json.dumps({"machine": model, "flags": flags, "threads": a.threads, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
