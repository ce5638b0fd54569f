#!/usr/bin/env bash
# Runs cargo with the feature `cuda` and what it takes: the compiler, assembled in target/cuda-12.4 unless CUDA_HOME names one,
# and CUDA's libraries opened when the program uses them, so that it also starts where there are none. Needs g++.
# usage: build_cuda.sh [ARGUMENTS OF CARGO]   (build --release --locked)
# e.g. build_cuda.sh test --release --test cuda. Programs go to target/x86_64-unknown-linux-gnu/<profile>/.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=x86_64-unknown-linux-gnu
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

fail() {
    echo "build_cuda.sh: $*" >&2
    exit 1
}

set_up_compiler() {
    if [ -z "${CUDA_HOME:-}" ]; then
        export CUDA_HOME=$target/cuda-12.4
        scripts/cuda_toolkit.sh "$CUDA_HOME"
    elif [ ! -x "$CUDA_HOME/bin/nvcc" ]; then
        fail "CUDA_HOME=$CUDA_HOME: expected a CUDA toolkit, got no bin/nvcc in it"
    fi
    command -v g++ >/dev/null || fail 'expected g++, which nvcc runs, got none: install it'
}

# The crate cudarc links CUDA's libraries unless rustc is told otherwise: as a feature in Cargo.toml it would contradict the one
# that candle asks for. The linker is given their names all the same; empty archives satisfy it.
set_up_linking() {
    local archives=$target/cuda-empty-archives library
    mkdir -p "$archives/lib"
    for library in cuda cublas cublasLt curand cudnn nvrtc; do
        printf '!<arch>\n' >"$archives/lib/lib$library.a"
    done
    # One of the variables in which cudarc looks for folders with libraries.
    export CUDNN_LIB=$archives
    export CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-12040}
    # Flags in RUSTFLAGS replace those for one target.
    if [ -n "${RUSTFLAGS:-}" ]; then
        add_flag RUSTFLAGS '--cfg feature="dynamic-loading"'
    else
        add_flag CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS '--cfg feature="dynamic-loading"'
    fi
}

# add_flag VARIABLE FLAG: exports the variable with the flag, as it is if it has it.
add_flag() {
    local flags=${!1:-}
    if [[ "$flags" != *"$2"* ]]; then
        flags=${flags:+$flags }$2
    fi
    export "$1=$flags"
}

# check_program PATH: its path and size, and that it starts without CUDA's libraries.
check_program() {
    local linked
    linked=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    if grep -E '^lib(cu|nv)' <<<"$linked"; then
        fail "$1: expected a program that opens CUDA's libraries itself, got one linked with those above"
    fi
    printf '%s: %d kB, linked with %s\n' "$1" "$(($(stat -c %s "$1") / 1000))" "${linked//$'\n'/ }"
}

# build ARGUMENTS…: also reads from cargo's messages which programs came of it.
build() {
    local program messages=$target/cuda-build-messages.json
    cargo build --features cuda --target "$triple" --message-format=json-render-diagnostics "$@" >"$messages"
    while read -r program; do
        check_program "$program"
    done < <(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages")
}

if [ $# -eq 0 ]; then
    set -- build --release --locked
fi
set_up_compiler
set_up_linking
if [ "$1" = build ]; then
    build "${@:2}"
else
    cargo "$1" --features cuda --target "$triple" "${@:2}"
fi
