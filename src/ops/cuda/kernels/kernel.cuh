// What every kernel file includes first, so that one source serves two compilers: nvcc, for the program, and g++,
// for the software device of the tests (tests/software_device), which runs the same kernels without a GPU.
//
// Kernels are written as `extern "C" __global__ void name(arguments) { … }`, one name in the whole folder, with
// arguments that can be copied byte by byte. Shared memory of fixed size is an ordinary `__shared__ float part[32];`.
// Shared memory whose size the launch gives is declared inside the kernel with DYNAMIC_SHARED, once per kernel.
#pragma once

#ifdef SOFTWARE_DEVICE
#include "cuda_as_cpp.h"
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(software_device::dynamic_shared())
#else
#include <cuda_fp16.h>
#define DYNAMIC_SHARED(type, name)                                    \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared_bytes)
#endif
