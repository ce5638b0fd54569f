#!/usr/bin/env python3
"""What the device reaches at best, and which it is: one JSON object.

    gpu_ceilings.py DEVICE

DEVICE is what torch calls it: cuda, cuda:1, cpu. Measured are a square matrix product (8192, float16 in and out; on a CPU 2048
in float32) and a copy from one block of the device's memory to another (1 GiB; on a CPU 256 MiB), bytes read and written both
counted. Each is the median of several after a warm-up.
"""
import json
import statistics
import sys
import time

import torch

REPEATS = 20


def seconds_of(call, device):
    """Median seconds of one call, everything before it done."""
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    times = []
    for _ in range(REPEATS + 3):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[3:])


def ceilings(device):
    gpu = device.type == "cuda"
    n, dtype, block = (8192, torch.float16, 1 << 30) if gpu else (2048, torch.float32, 1 << 28)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    flops = 2 * n ** 3 / seconds_of(lambda: torch.matmul(a, b, out=product), device)
    source = torch.ones(block, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * block / seconds_of(lambda: target.copy_(source), device)
    return {"flops": flops, "bandwidth": bandwidth, "matrix": n, "type": "float16" if gpu else "float32"}


def description(device):
    said = {"torch": torch.__version__, "name": "CPU"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        said |= {"name": properties.name, "uuid": f"GPU-{properties.uuid}", "memory_mb": properties.total_memory / 1e6,
                 "capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return said


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    device = torch.device(sys.argv[1])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"{device}: expected a GPU that torch {torch.__version__} can use, got none")
    with torch.inference_mode():
        print(json.dumps(ceilings(device) | description(device)))


if __name__ == "__main__":
    sys.exit(main())
