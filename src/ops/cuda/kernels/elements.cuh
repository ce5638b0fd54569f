// Elements of activations: float16 or float32, read and written eight channels at a time.
//
// Channels of every activation are padded to a multiple of eight, so that eight of them are always 16 or 32 aligned bytes.
#pragma once

#include "kernel.cuh"

constexpr unsigned EIGHT = 8;

__device__ __forceinline__ void load_eight(const __half *from, float (&to)[EIGHT]) {
  const uint4 raw = *reinterpret_cast<const uint4 *>(from);
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    to[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] & 0xffffu)));
    to[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
  }
}

__device__ __forceinline__ void load_eight(const float *from, float (&to)[EIGHT]) {
  const float4 low = reinterpret_cast<const float4 *>(from)[0];
  const float4 high = reinterpret_cast<const float4 *>(from)[1];
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

__device__ __forceinline__ unsigned pack_halves(float low, float high) {
  const unsigned first = __half_as_ushort(__float2half_rn(low));
  const unsigned second = __half_as_ushort(__float2half_rn(high));
  return first | second << 16;
}

__device__ __forceinline__ void store_eight(__half *to, const float (&from)[EIGHT]) {
  uint4 raw;
  raw.x = pack_halves(from[0], from[1]);
  raw.y = pack_halves(from[2], from[3]);
  raw.z = pack_halves(from[4], from[5]);
  raw.w = pack_halves(from[6], from[7]);
  *reinterpret_cast<uint4 *>(to) = raw;
}

__device__ __forceinline__ void store_eight(float *to, const float (&from)[EIGHT]) {
  reinterpret_cast<float4 *>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4 *>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

// NaN goes through as it is, as in PyTorch.
__device__ __forceinline__ float leaky_relu(float v, float negative_slope) {
  return v < 0.0f ? v * negative_slope : v;
}

// Index of this thread among all of the grid's first dimension, and how many there are: both below 2^29.
//
// Whatever has fewer than 2^31 elements is counted in 32 bits, since a division in 64 bits takes a GPU several times as long.
__device__ __forceinline__ unsigned first_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ unsigned index_step() { return gridDim.x * blockDim.x; }
