#!/usr/bin/env bash
# Assembles a CUDA 12.4 compiler in DIR for the feature `cuda`: nvcc, its parts and the headers of kernels, neither driver nor
# libraries. Every download is pinned by version and SHA-256. 12.4, as its code runs with drivers from 550 on, and machine code
# of it from 525 on. Needs Debian or Ubuntu with g++ and pip, which it installs if it is root; elsewhere set CUDA_HOME to an
# installed toolkit instead. A second call returns at once. usage: cuda_toolkit.sh DIR ; then: export CUDA_HOME=DIR
set -euo pipefail

# The programs are in Debian's packages only, the headers in PyPI's only.
packages=(
    nvidia-cuda-toolkit_12.4.131~12.4.1-2_amd64.deb=cd5fe85aee38d108b315f408a688641478f2402622a10c677478eb7a6c4e5319
    libnvvm4_12.4.131~12.4.1-2_amd64.deb=3c905c1df7453e1ad477516c4465629c310d2f58a796d66f44070dc289e7ec12
)
wheels='nvidia-cuda-cccl-cu12==12.4.127.post1 --hash=sha256:2027fa5fc75fbee703bf24e8275a40a605cf94a3e8fef8a7187897d49b34facb
nvidia-cuda-nvcc-cu12==12.4.131 --hash=sha256:e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04
nvidia-cuda-runtime-cu12==12.4.127 --hash=sha256:64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5'
apt_helper=/usr/lib/apt/apt-helper

fail() {
    echo "cuda_toolkit.sh: $*" >&2
    exit 1
}

# install PACKAGE: of Debian, if this is root.
install() {
    if [ "$(id -u)" -ne 0 ]; then
        fail "expected $1 to be installed, got none"
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$1" >/dev/null
}

check_system() {
    if [ ! -x "$apt_helper" ] || ! command -v dpkg >/dev/null; then
        fail "expected Debian or Ubuntu on x86-64: there is no $apt_helper or no dpkg; set CUDA_HOME to an installed CUDA toolkit instead"
    fi
    if ! python3 -m pip --version >/dev/null 2>&1; then
        install python3-pip
    fi
}

# take_packages MIRROR: unpacked in ./deb.
take_packages() {
    local package file
    for package in "${packages[@]}"; do
        file=${package%=*}
        "$apt_helper" -qq -o APT::Sandbox::User=root download-file \
            "$1/pool/non-free/n/nvidia-cuda-toolkit/$file" "$file" "SHA256:${package##*=}"
        dpkg -x "$file" deb
    done
}

# Unpacked in ./wheel.
take_wheels() {
    local wheel
    printf '%s\n' "$wheels" >wheels.txt
    python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --no-cache-dir \
        --platform manylinux2014_x86_64 --dest . --requirement wheels.txt
    for wheel in *.whl; do
        python3 -m zipfile -e "$wheel" wheel
    done
}

# lay_out HOME: the parts where nvcc's own description of itself, nvcc.profile, says that they are.
lay_out() {
    mkdir -p "$1"/{bin,include} "$1"/nvvm/{bin,libdevice}
    cp deb/usr/bin/{cudafe++,fatbinary,ptxas} deb/usr/lib/nvidia-cuda-toolkit/bin/nvcc "$1/bin/"
    cp deb/usr/lib/nvidia-cuda-toolkit/bin/cicc "$1/nvvm/bin/"
    cp deb/usr/lib/nvidia-cuda-toolkit/libdevice/* "$1/nvvm/libdevice/"
    cp -a deb/usr/lib/x86_64-linux-gnu/libnvvm.so.4* "$1/nvvm/bin/"
    cp -r wheel/nvidia/{cuda_cccl,cuda_nvcc,cuda_runtime}/include/. "$1/include/"
    cat >"$1/bin/nvcc.profile" <<'P'
TOP              = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/$(_NVVM_BRANCH_)/libdevice
PATH            += $(TOP)/$(_NVVM_BRANCH_)/bin:$(_HERE_):
INCLUDES        += "-I$(TOP)/include" $(_SPACE_)
P
}

if [ $# -ne 1 ]; then
    fail "expected one argument, the folder, got $#"
fi
home=$(realpath -m "$1")
# nvcc runs it, whenever the folder was made.
if ! command -v g++ >/dev/null; then
    install g++
fi
pins=$(printf '%s\n' "${packages[@]}" "$wheels")
if [ "$(cat "$home/pins.txt" 2>/dev/null)" = "$pins" ]; then
    exit 0
fi
if [ ! -e "$home/pins.txt" ] && [ -n "$(ls -A "$home" 2>/dev/null)" ]; then
    fail "$home: expected a folder made by this script, an empty one or none at all, got another"
fi

check_system
# The mirror that this system uses, if it is one of Debian.
# shellcheck disable=SC2016 # apt's variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sed -n '/\/debian\/\?$/{p;q}')
mirror=${mirror:-http://deb.debian.org/debian}
mkdir -p "$(dirname "$home")"
work=$(mktemp -d "$home.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
take_packages "${mirror%/}"
take_wheels
lay_out tree
tree/bin/nvcc --version | sed -n 's/^Build/assembled nvcc, build/p'
printf '%s\n' "$pins" >tree/pins.txt
rm -rf "$home"
mv tree "$home"
