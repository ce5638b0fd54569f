#!/usr/bin/env python3
"""Measure the container image, and put the Python original's figures beside its own.

    bench_container.py --docker podman --image pdac-cascade --models WORK/models --runs 5 --threads 2

The image is the CPU image that scripts/do_build.sh builds. Measured are

- its size, each layer compressed by gzip as a registry does, with and without the layer of the weights; beside it the sum of
  the wheels that pip would install for the original's requirements (--requirements, by pip's own resolver), compressed as they
  are, without the base image they would lie on;
- with the program and the weights taken out of the image, whole processes in turn: time to the first byte of the log, time
  until GET /health answers 200, and the same of the original (original_ready.py); with --drop-caches after the file cache was
  dropped (needs root);
- time from `run` of the container until it is healthy, which the container's own start is part of;
- peak memory of one case (test_input) in the container;
- wall time and peak memory of one case outside of it, ours and the original's in turn (bench_cascade.py).

--models is the folder of .pth models with weights rounded to f16, as for bench_cascade.py; without it ours is measured alone.
"""
import argparse
import gzip
import http.client
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

import bench_cascade
import make_demo
import oracle

HERE = Path(__file__).parent
WEIGHTS = "opt/pdac-cascade/weights"
LIMIT = 300  # seconds until a program must be ready


class Counter:
    """A file that only counts."""

    def __init__(self):
        self.bytes = 0

    def write(self, data):
        self.bytes += len(data)
        return len(data)

    def flush(self):
        pass


def compressed(stream):
    """Bytes of a stream after gzip with its default level."""
    counter = Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6) as out:
        while block := stream.read(1 << 20):
            out.write(block)
    return counter.bytes


def layer_sizes(docker, image):
    """(compressed bytes, whether it is the weights' layer) of each layer."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        subprocess.run([docker, "save", "--output", file.name, image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with tarfile.open(file.name) as archive:
            manifest, = json.load(archive.extractfile("manifest.json"))
            sizes = []
            for name in manifest["Layers"]:
                with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                    files = [m.name.lstrip("./") for m in layer if m.isfile()]
                only_weights = bool(files) and all(f.startswith(WEIGHTS) for f in files)
                sizes.append((compressed(archive.extractfile(name)), only_weights))
    return sizes


def wheel_sizes(requirements):
    """Bytes of every wheel that pip would install, by name."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", report.name,
                        "--requirement", str(requirements)], check=True, stdout=subprocess.DEVNULL)
        packages = json.load(open(report.name))["install"]
    sizes = {}
    for package in packages:
        request = urllib.request.Request(package["download_info"]["url"], method="HEAD")
        with urllib.request.urlopen(request, timeout=60) as answer:
            sizes[package["metadata"]["name"]] = int(answer.headers["Content-Length"])
    return sizes


def take_out(docker, image, folder):
    """The image's program, with the weights beside it."""
    container = subprocess.run([docker, "create", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run([docker, "cp", f"{container}:/opt/pdac-cascade", str(folder)], check=True, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run([docker, "rm", container], check=True, stdout=subprocess.DEVNULL)
    return folder / "pdac-cascade" / "pdac-cascade"


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def time_start(command, is_ready, threads):
    """Seconds until a program has written its first byte, and until it is ready; it is then told to end."""
    environment = os.environ | dict.fromkeys(bench_cascade.THREAD_VARIABLES, str(threads))
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    log, first = b"", None
    os.set_blocking(child.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not is_ready(log):
            if selector.select(0.001):
                log += child.stdout.read() or b""
                first = first or time.perf_counter()
            if child.poll() is not None or time.perf_counter() - started > LIMIT:
                if not is_ready(log):
                    raise SystemExit(f"{command[0]} is not ready:\n{log.decode(errors='replace')}")
        ready = time.perf_counter()
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    child.stdout.close()
    child.wait()
    return {"first line": first - started, "ready": ready - started}


def time_container(docker, image):
    """Seconds from `run` to the first 200 of a container that serves, asked from inside."""
    ask = "until { exec 3<>/dev/tcp/127.0.0.1/4743; } 2>/dev/null; do :; done; printf 'GET /health HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3; head -c 12 <&3"
    started = time.perf_counter()
    container = subprocess.run([docker, "run", "--detach", "--network", "none", image, "serve"], check=True, capture_output=True, text=True).stdout.strip()
    try:
        while time.perf_counter() - started < LIMIT:
            answer = subprocess.run([docker, "exec", container, "bash", "-c", ask], capture_output=True, text=True).stdout
            if answer.endswith("200"):
                return time.perf_counter() - started
        raise SystemExit("the container is not healthy")
    finally:
        subprocess.run([docker, "rm", "--force", container], check=True, stdout=subprocess.DEVNULL)


def peak_in_container(docker, image):
    """Peak resident MB of one case, as the program counts it itself."""
    command = [docker, "run", "--rm", "--network", "none", "--volume", f"{oracle.REPOSITORY / 'test_input'}:/input:ro",
               "--tmpfs", "/output:mode=1777", image, "run", "--log", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    return next(line["peak_mb"] for line in lines if line.get("stage") == "total" and "peak_mb" in line)


def row(what, ours, original="", limit=""):
    print(f"{what:58} {ours:>14} {original:>16} {limit:>12}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--docker", default="docker", help="container command (default: docker)")
    ap.add_argument("--image", default="pdac-cascade")
    ap.add_argument("--models", type=Path, help="folder of the .pth models, rounded to f16")
    ap.add_argument("--requirements", type=Path, help="the original's requirements (default: requirements.txt of the oracle folder)")
    ap.add_argument("--runs", type=int, default=5, help="of each (default %(default)s)")
    ap.add_argument("--threads", type=int, default=2, help="of each (default %(default)s)")
    ap.add_argument("--port", type=int, default=14743, help="for the program outside its container (default %(default)s)")
    ap.add_argument("--drop-caches", action="store_true", help="drop the file cache before each start")
    oracle.add_option(ap)
    a = ap.parse_args()

    row("", "ours", "Python original", "to reach")
    layers = layer_sizes(a.docker, a.image)
    wheels = wheel_sizes(a.requirements or a.oracle / "requirements.txt") if a.models else {}
    mb = lambda n: f"{n / 1e6:.1f} MB"  # noqa: E731
    row("image, compressed, without weights", mb(sum(n for n, w in layers if not w)), mb(sum(wheels.values())) if wheels else "", "45 MB")
    row("  weights", mb(sum(n for n, w in layers if w)))
    for name, size in sorted(wheels.items(), key=lambda w: -w[1])[:5]:
        row(f"  of which {name}", "", mb(size))

    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        program = take_out(a.docker, a.image, tmp)
        serve = [str(program), "serve", "--host", "127.0.0.1", "--port", str(a.port), "--threads", str(a.threads)]
        starts = {"ours": [], "original": []}
        for _ in range(a.runs):
            if a.drop_caches:
                drop_caches()
            starts["ours"].append(time_start(serve, lambda _: healthy(a.port), a.threads))
            if a.models:
                if a.drop_caches:
                    drop_caches()
                command = [sys.executable, str(HERE / "original_ready.py"), str(a.oracle), *map(str, make_demo.model_folders(a.models.resolve()))]
                starts["original"].append(time_start(command, lambda log: b"\nready\n" in log, a.threads))
        for what, limit in (("first line", "50 ms"), ("ready", "500 ms")):
            medians = {who: f"{statistics.median(s[what] for s in all_) * 1e3:.0f} ms" if all_ else "" for who, all_ in starts.items()}
            row(f"process start to {what}, median of {a.runs}" + (", no file cache" if a.drop_caches else ""), medians["ours"], medians["original"], limit)
        container = statistics.median(time_container(a.docker, a.image) for _ in range(a.runs))
        row(f"container start to healthy, median of {a.runs}", f"{container * 1e3:.0f} ms")

        peak = max(peak_in_container(a.docker, a.image) for _ in range(a.runs))
        row(f"one case in the container: peak memory, largest of {a.runs}", f"{peak:.0f} MB", limit="400 MB")

        if a.models:
            # A process of its own: at exec the kernel hands the caller's peak memory on to the child.
            subprocess.run([sys.executable, str(HERE / "bench_cascade.py"), "--binary", str(program), "--models", str(a.models), "--oracle",
                            str(a.oracle), "--runs", str(a.runs), "--threads", str(a.threads), "--json", str(tmp / "cases.json")],
                           check=True, stdout=subprocess.DEVNULL)
            medians = json.loads((tmp / "cases.json").read_text())["medians"]
            of_case = lambda name, form: [form.format(medians[who][name]) for who in ("ours", "original")]  # noqa: E731
            row(f"one case: peak memory, median of {a.runs}", *of_case("peak_mib", "{:.0f} MiB"))
            row(f"one case: whole process, median of {a.runs}", *of_case("wall_s", "{:.2f} s"))


if __name__ == "__main__":
    sys.exit(main())
