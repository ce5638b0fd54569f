#!/usr/bin/env bash
# Times nnU-Net and our program on the GPU of this computer, after checking that our results are right there; what is timed,
# how, and what must be installed is in scripts/reference/README.md. Makes the models and the scan first where WORK lacks them.
# usage: gpu_bench.sh [--prepare] [--python PYTHON] [--size full|tiny] --binary BINARY --work WORK [OPTIONS of bench_gpu.py]
#   --prepare   only make WORK (minutes), so that the measurement itself keeps to its --budget
set -euo pipefail
scripts=$(dirname "$(realpath "$0")")
python=python3
size=full
prepare=
work=
oracle=()
options=()

fail() {
    echo "gpu_bench.sh: $*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --prepare)
        prepare=1
        shift
        continue
        ;;
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit
        ;;
    esac
    [ $# -ge 2 ] || fail "$1: expected a value after it, got none"
    case $1 in
    --python) python=$2 ;;
    --size) size=$2 ;;
    --work)
        work=$2
        options+=("$1" "$2")
        ;;
    --oracle)
        oracle=("$1" "$2")
        options+=("$1" "$2")
        ;;
    *) options+=("$1" "$2") ;;
    esac
    shift 2
done
[ -n "$work" ] || fail 'expected --work WORK, got none'

# Versions before these lack what is called: torch.cuda's UUIDs, nnU-Net's predictor in one process.
"$python" - <<'END' || fail "$python: expected Python 3.11 with the packages listed in scripts/reference/README.md"
import sys
from importlib.metadata import version
def number(text): return tuple(int(part) for part in text.split("+")[0].split(".")[:2])
assert sys.version_info >= (3, 11), f"Python 3.11 or later, got {sys.version.split()[0]}"
for name, least in (("torch", (2, 6)), ("nnunetv2", (2, 6)), ("SimpleITK", (2, 3)), ("report_guided_annotation", (0, 3)), ("safetensors", (0, 4))):
    assert number(version(name)) >= least, f"{name}: {least} or later, got {version(name)}"
END

if [ ! -f "$work/size" ]; then
    "$python" "$scripts/reference/make_gpu_bench.py" --work "$work" --size "$size" "${oracle[@]}"
fi
if [ -z "$prepare" ]; then
    exec "$python" "$scripts/reference/bench_gpu.py" "${options[@]}"
fi
