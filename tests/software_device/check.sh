#!/usr/bin/env bash
# Builds the software device with the test kernels of this folder and runs its own tests.
#
#   tests/software_device/check.sh [OUT [TEST…]]
#
# OUT (target/software_device_check) gets the libraries and the test program. Environment: as for build.sh.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/software_device_check}
[ $# -eq 0 ] || shift
include=${CUDA_INCLUDE:-${CUDA_HOME:-/usr/local/cuda}/include}

"$here/build.sh" "$out" "$here/self_test_kernels.cu"
"${CXX:-g++}" -std=c++17 -O2 -march=native -Wall -Wextra -Werror -I "$here" -isystem "$include" \
    "$here"/self_test*.cpp -o "$out/self_test" -L "$out" -lcuda
LD_LIBRARY_PATH=$out timeout 300 "$out/self_test" "$@"
