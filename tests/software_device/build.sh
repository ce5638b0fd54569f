#!/usr/bin/env bash
# Builds the software device: shared libraries that the program opens in place of NVIDIA's when the folder stands
# first in LD_LIBRARY_PATH, and that compute the same numbers without a GPU.
#
#   tests/software_device/build.sh OUT [FILE.cu…]
#
# writes OUT/libcuda.so.1 and links to it by the other libraries' names. It holds the kernels of
# src/ops/cuda/kernels/*.cu, or of the files named. Environment: CUDA_HOME (whose include/ has cuda.h and cuda_fp16.h)
# or CUDA_INCLUDE; CXX (g++ 12 or newer).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kernel_folder=$root/src/ops/cuda/kernels

if [ $# -lt 1 ]; then
    echo "usage: tests/software_device/build.sh OUT [FILE.cu...]" >&2
    exit 2
fi
out=$1
shift
if [ $# -gt 0 ]; then
    kernels=("$@")
else
    shopt -s nullglob
    kernels=("$kernel_folder"/*.cu)
    shopt -u nullglob
fi

include=${CUDA_INCLUDE:-${CUDA_HOME:-/usr/local/cuda}/include}
if [ ! -e "$include/cuda.h" ] || [ ! -e "$include/cuda_fp16.h" ]; then
    echo "build.sh: $include has no cuda.h and cuda_fp16.h; set CUDA_HOME" >&2
    exit 1
fi

compiler=${CXX:-g++}
# Objects are made for this processor; a folder that moves to another one gets new ones.
objects=$out/objects-$(grep -m 1 '^flags' /proc/cpuinfo | cksum | cut -d ' ' -f 1)
mkdir -p "$objects"
flags=(-std=c++17 -O3 -march=native -ffp-contract=off -fno-math-errno -fPIC -pthread -Wall -Wextra -Werror
    -I "$here" -isystem "$include")
# Kernels are written for nvcc, whose pragmas g++ does not know, and which keeps the functions of each file apart: two
# files may have different ones of the same name. Without weak symbols g++ does so too.
kernel_flags=("${flags[@]}" -I "$kernel_folder" -DSOFTWARE_DEVICE -fno-weak -Wno-unknown-pragmas)

# Names of the `extern "C" __global__ void` functions of a file, macros expanded.
kernel_names() {
    "$compiler" "${kernel_flags[@]}" -DSOFTWARE_DEVICE_LISTING -E -P -x c++ "$1" | tr '\n' ' ' |
        { grep -oE 'extern "C" +software_device_kernel +void +[A-Za-z0-9_]+ *\(' || true; } |
        sed -E 's/.*void +([A-Za-z0-9_]+) *\(/\1/'
}

# A kernel file with the announcement of its kernels behind it. The checksum makes a new unit of a changed file.
write_unit() {
    local names name
    names=$(kernel_names "$1")
    if [ -z "$names" ]; then
        echo "build.sh: $1 has no kernel (extern \"C\" __global__ void name(...))" >&2
        exit 1
    fi
    echo "// $(cksum <"$1")"
    echo "#include \"$(realpath "$1")\""
    echo 'namespace {'
    for name in $names; do
        echo "const software_device::Announcement announce_$name(\"$name\", &$name);"
    done
    echo '}'
}

# Compiles one source, unless its object is newer than everything.
compile() {
    local source=$1 object=$2
    shift 2
    local newest
    newest=$(find "$here" "$kernel_folder" "$source" -type f -newer "$object" -print -quit 2>/dev/null || true)
    if [ ! -e "$object" ] || [ -n "$newest" ]; then
        "$compiler" "$@" -c -x c++ "$source" -o "$object"
    fi
}

linked=()
jobs_running=0
start() {
    linked+=("$2")
    compile "$@" &
    jobs_running=$((jobs_running + 1))
    if [ "$jobs_running" -ge 2 ]; then
        wait -n
        jobs_running=$((jobs_running - 1))
    fi
}

for source in "$here"/*.cpp; do
    case $source in
    */self_test*.cpp) continue ;;
    esac
    start "$source" "$objects/$(basename "$source" .cpp).o" "${flags[@]}"
done
for kernel in ${kernels[@]+"${kernels[@]}"}; do
    name=$(basename "$kernel" .cu)
    write_unit "$kernel" >"$objects/kernels_$name.new"
    cmp -s "$objects/kernels_$name.new" "$objects/kernels_$name.cpp" ||
        cp "$objects/kernels_$name.new" "$objects/kernels_$name.cpp"
    start "$objects/kernels_$name.cpp" "$objects/kernels_$name.o" "${kernel_flags[@]}"
done
for job in $(jobs -p); do
    wait "$job"
done

"$compiler" -shared -pthread -Wl,-Bsymbolic -Wl,-z,defs -o "$out/libcuda.so.1.new" "${linked[@]}"
mv "$out/libcuda.so.1.new" "$out/libcuda.so.1"
# Other names of the same file: the loader sees that and opens it once, so all have one state. The names without a
# number come first in the program's search.
for name in libcuda.so libcudnn.so libcudnn.so.9 libcublas.so libcublas.so.12 libcublasLt.so libcublasLt.so.12 \
    libcurand.so libcurand.so.10; do
    ln -sf libcuda.so.1 "$out/$name"
done
