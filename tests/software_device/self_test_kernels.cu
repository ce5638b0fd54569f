// Kernels for the software device's own tests (check.sh). They compile with nvcc as well.
#include "kernel.cuh"

// out[i] = a[i] * scale + i
extern "C" __global__ void scale_and_count(const float* __restrict__ a, float* __restrict__ out, float scale,
                                           unsigned count) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = fmaf(a[i], scale, static_cast<float>(i));
}

// Template code with shared memory of its own, as block sums are usually written.
template <class T>
__device__ T block_sum(T value) {
    __shared__ T parts[32];
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, delta);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += parts[warp];
    return sum;
}

extern "C" __global__ void __launch_bounds__(256) sum_blocks(const __half* values, float* sums, int* total) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const float sum = block_sum(__half2float(values[i]));
    const int ones = block_sum(1);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
        atomicAdd(total, ones);
    }
}

// Reverses a block's values through dynamic shared memory.
extern "C" __global__ void reverse_blocks(float* values) {
    DYNAMIC_SHARED(float, held);
    float* own = values + blockIdx.x * blockDim.x;
    held[threadIdx.x] = own[threadIdx.x];
    __syncthreads();
    own[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

// The same without its barrier.
extern "C" __global__ void reverse_too_early(float* values) {
    DYNAMIC_SHARED(float, held);
    float* own = values + blockIdx.x * blockDim.x;
    __syncthreads();
    held[threadIdx.x] = own[threadIdx.x];
    own[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

// Each block leaves a mark in shared memory after reading what was there before.
extern "C" __global__ void read_unwritten(float* out) {
    __shared__ float mark;
    if (threadIdx.x == 0) out[blockIdx.x] = mark;
    __syncthreads();
    mark = 1.0f;
    __syncthreads();
}

// Lanes' votes and exchanges: out[lane] for every kind.
extern "C" __global__ void exchange(int* out) {
    const int lane = threadIdx.x % warpSize;
    out[lane] = __shfl_xor_sync(0xFFFFFFFFu, lane, 1);
    out[32 + lane] = __shfl_sync(0xFFFFFFFFu, lane, 5);
    out[64 + lane] = __shfl_up_sync(0xFFFFFFFFu, lane, 3);
    out[96 + lane] = __shfl_down_sync(0xFFFFFFFFu, lane, 3, 8);
    out[128 + lane] = static_cast<int>(__ballot_sync(0xFFFFFFFFu, lane % 3 == 0));
    out[160 + lane] = __any_sync(0xFFFFFFFFu, lane == 7) + 2 * __all_sync(0xFFFFFFFFu, lane < 31);
    __syncwarp();
    if (lane < 16) out[192 + lane] = __shfl_xor_sync(0x0000FFFFu, lane, 8);
}

extern "C" __global__ void atomics(unsigned* numbers, float* sum) {
    atomicMin(&numbers[0], threadIdx.x + 7);
    atomicMax(&numbers[1], threadIdx.x);
    atomicAdd(&numbers[2], 1u);
    atomicExch(&numbers[3], 42u);
    atomicAdd(sum, 0.5f);
}

extern "C" __global__ void barrier_for_half(int* out) {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp(0xFFFF0000u);
    out[threadIdx.x] = 1;
    __syncthreads();
}

extern "C" __global__ void shuffle_for_half(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xFFFFFFFFu, 1, 16);
    else __syncthreads();
}

extern "C" __global__ void read_ended_lane(int* out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_down_sync(0xFFFFFFFFu, 1, 16);
}

extern "C" __global__ void past_dynamic_shared() {
    DYNAMIC_SHARED(float, held);
    held[threadIdx.x] = 0.0f;
    __syncthreads();
}

extern "C" __global__ void past_the_end(float* out, unsigned index) { out[index] = 1.0f; }
