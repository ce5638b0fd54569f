// What CUDA's language adds to C++, so that kernel files compile with g++: the words before declarations, the indices
// of a thread, and the functions that only device code has. Vector types and half precision come from CUDA's own
// headers, which g++ reads. Included by src/ops/cuda/kernels/kernel.cuh when SOFTWARE_DEVICE is defined; the file ends
// up in one translation unit for each kernel file, with a table of its kernels behind it (build.sh).
#pragma once

#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernel_calls.h"
#include "this_thread.h"

#undef __shared__
#undef __global__
#undef __constant__
#undef __launch_bounds__
#define __shared__ static __thread
#define __constant__ static
#define __launch_bounds__(...)
#ifdef SOFTWARE_DEVICE_LISTING
// build.sh looks for this word in the preprocessed source.
#define __global__ software_device_kernel
#else
#define __global__
#endif

#define threadIdx (::software_device::here.thread_index)
#define blockIdx (::software_device::here.block_index)
#define blockDim (::software_device::here.block_size)
#define gridDim (::software_device::here.grid_size)
#define warpSize 32

using std::isfinite;
using std::isinf;
using std::isnan;

// Waiting for other threads. The place in the source is part of the call: threads that wait at different places have
// diverged, which is reported as a failed launch.

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    software_device::wait_at_barrier(file, line);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
    software_device::sync_warp(mask, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
    return software_device::ballot(mask, predicate != 0, file, line);
}

inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
    return software_device::ballot(mask, predicate != 0, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
    return software_device::ballot(mask, predicate == 0, file, line) == 0;
}

namespace software_device {

// The value of `value` in lane `source`; any type of up to eight bytes.
template <class T>
T shuffle(unsigned mask, T value, unsigned source, const char* file, int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange_bits(mask, bits, source, file, line);
    memcpy(static_cast<void*>(&value), &bits, sizeof value);
    return value;
}

inline unsigned first_of_group(int width) { return lane() & ~static_cast<unsigned>(width - 1); }

// Outside its group a lane reads itself, as on a device.
inline unsigned within_group(int lane_in_group, int width) {
    const bool inside = lane_in_group >= 0 && lane_in_group < width;
    return inside ? first_of_group(width) + static_cast<unsigned>(lane_in_group) : lane();
}

inline int lane_in_group(int width) { return static_cast<int>(lane() - first_of_group(width)); }

}  // namespace software_device

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
    const auto wrapped = static_cast<unsigned>(source) & static_cast<unsigned>(width - 1);
    return software_device::shuffle(mask, value, software_device::first_of_group(width) + wrapped, file, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
    const int source = software_device::lane_in_group(width) - static_cast<int>(delta);
    return software_device::shuffle(mask, value, software_device::within_group(source, width), file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
    const int source = software_device::lane_in_group(width) + static_cast<int>(delta);
    return software_device::shuffle(mask, value, software_device::within_group(source, width), file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    const int source = software_device::lane_in_group(width) ^ lanes;
    return software_device::shuffle(mask, value, software_device::within_group(source, width), file, line);
}

[[noreturn]] inline void __trap(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    software_device::trap(file, line);
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Atomic updates. Blocks run on several host threads, so these are real ones. Each returns the value before.

template <class T>
using Unchanged = std::common_type_t<T>;  // lets the second argument convert to the type of the first

namespace software_device {

template <class T, class Change>
T update(T* address, Change change) {
    T before;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    for (;;) {
        T after = change(before);
        if (__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return before;
        }
    }
}

}  // namespace software_device

template <class T>
T atomicAdd(T* address, Unchanged<T> value) {
    return software_device::update(address, [=](T old) { return static_cast<T>(old + value); });
}

template <class T>
T atomicSub(T* address, Unchanged<T> value) {
    return software_device::update(address, [=](T old) { return static_cast<T>(old - value); });
}

template <class T>
T atomicMin(T* address, Unchanged<T> value) {
    static_assert(std::is_integral_v<T>, "a device has no atomicMin of floats");
    return software_device::update(address, [=](T old) { return old < value ? old : value; });
}

template <class T>
T atomicMax(T* address, Unchanged<T> value) {
    static_assert(std::is_integral_v<T>, "a device has no atomicMax of floats");
    return software_device::update(address, [=](T old) { return old > value ? old : value; });
}

template <class T>
T atomicExch(T* address, Unchanged<T> value) {
    return software_device::update(address, [=](T) { return value; });
}

template <class T>
T atomicCAS(T* address, Unchanged<T> compare, Unchanged<T> value) {
    return software_device::update(address, [=](T old) { return old == compare ? value : old; });
}

template <class T>
T atomicOr(T* address, Unchanged<T> value) {
    return software_device::update(address, [=](T old) { return old | value; });
}

template <class T>
T atomicAnd(T* address, Unchanged<T> value) {
    return software_device::update(address, [=](T old) { return old & value; });
}

// Loads and stores with a hint for the cache.

template <class T>
T __ldg(const T* address) { return *address; }
template <class T>
T __ldcs(const T* address) { return *address; }
template <class T>
void __stcs(T* address, Unchanged<T> value) { *address = value; }

// Numbers.

namespace software_device {

template <class To, class From>
To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

}  // namespace software_device

inline int __float_as_int(float value) { return software_device::same_bits<int>(value); }
inline float __int_as_float(int value) { return software_device::same_bits<float>(value); }
inline unsigned __float_as_uint(float value) { return software_device::same_bits<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return software_device::same_bits<float>(value); }

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
    return static_cast<T>(b) < static_cast<T>(a) ? b : a;
}

template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
    return static_cast<T>(a) < static_cast<T>(b) ? b : a;
}

inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }
inline float __frsqrt_rn(float value) { return rsqrtf(value); }
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float value) { return std::fmin(std::fmax(value, 0.0f), 1.0f); }
// CUDA's headers see g++ and leave these names to its C library, which has its own functions of the first name.
inline float software_device_expf(float value) { return std::exp(value); }
inline float software_device_logf(float value) { return std::log(value); }
#define __expf software_device_expf
#define __logf software_device_logf
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline int __float2int_rd(float value) { return static_cast<int>(std::floor(value)); }
inline int __float2int_rz(float value) { return static_cast<int>(value); }
inline unsigned __float2uint_rn(float value) { return static_cast<unsigned>(std::nearbyint(value)); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
