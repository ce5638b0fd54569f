#!/usr/bin/env bash
# Fills TREE with what the container's CUDA variant adds to the root folder: the shared libraries of the wheels listed in
# REQUIREMENTS that are needed at run time, and their folder's name for ldconfig. Runs inside the image build, as root.
# usage: take_cuda_libraries.sh REQUIREMENTS TREE
set -euo pipefail
requirements=$(realpath "$1")
tree=$(realpath "$2")
folder=/opt/pdac-cascade/lib

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get update
apt-get install --yes --no-install-recommends python3-pip
python3 -m pip download --require-hashes --no-deps --only-binary :all: --no-cache-dir --requirement "$requirements"
for wheel in *.whl; do
    python3 -m zipfile -e "$wheel" .
done

# cuDNN's `adv` holds recurrent networks and attention.
rm nvidia/cudnn/lib/libcudnn_adv.so.9
mkdir -p "$tree$folder" "$tree/etc/ld.so.conf.d"
mv nvidia/cublas/lib/libcublas{,Lt}.so.12 nvidia/cuda_nvrtc/lib/libnvrtc{,-builtins}.so.12* nvidia/cudnn/lib/libcudnn*.so.9 \
    nvidia/curand/lib/libcurand.so.10 "$tree$folder"
echo "$folder" >"$tree/etc/ld.so.conf.d/pdac-cascade.conf"
