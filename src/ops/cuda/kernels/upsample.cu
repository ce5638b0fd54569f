// The second half of a transposed convolution whose kernel equals its stride.
//
// The first half is a 1x1x1 convolution to stride_z * stride_y * stride_x times the channels; here every voxel's products go to
// the voxels of the finer grid that they belong to, and the bias is added.
#include "elements.cuh"

// products: (sample, coarse voxel, tap, channel); out: (sample, fine voxel, channel). Grid: (any, samples).
template <class T>
__device__ void spread(const T *products, T *out, const float *bias, uint3 coarse, uint3 stride, unsigned channels) {
  const unsigned groups = channels / EIGHT;
  const unsigned depth = coarse.x * stride.x, height = coarse.y * stride.y, width = coarse.z * stride.z;
  const size_t fine_voxels = static_cast<size_t>(depth) * height * width;
  const unsigned taps = stride.x * stride.y * stride.z;
  const unsigned count = static_cast<unsigned>(fine_voxels) * groups;
  const T *from = products + static_cast<size_t>(blockIdx.y) * fine_voxels * channels;
  T *to = out + static_cast<size_t>(blockIdx.y) * fine_voxels * channels;
  for (unsigned i = first_index(); i < count; i += index_step()) {
    const unsigned channel = i % groups * EIGHT;
    const unsigned voxel = i / groups;
    const unsigned x = voxel % width, y = voxel / width % height, z = voxel / width / height;
    const size_t source = (static_cast<size_t>(z / stride.x) * coarse.y + y / stride.y) * coarse.z + x / stride.z;
    const unsigned tap = (z % stride.x * stride.y + y % stride.y) * stride.z + x % stride.z;
    float v[EIGHT], plus[EIGHT];
    load_eight(from + (source * taps + tap) * channels + channel, v);
    load_eight(bias + channel, plus);
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      v[c] += plus[c];
    }
    store_eight(to + static_cast<size_t>(i) * EIGHT, v);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    spread_upsampled_f16(const __half *products, __half *out, const float *bias, unsigned depth, unsigned height,
                         unsigned width, unsigned stride_z, unsigned stride_y, unsigned stride_x, unsigned channels) {
  spread(products, out, bias, make_uint3(depth, height, width), make_uint3(stride_z, stride_y, stride_x), channels);
}

extern "C" __global__ void __launch_bounds__(256)
    spread_upsampled_f32(const float *products, float *out, const float *bias, unsigned depth, unsigned height,
                         unsigned width, unsigned stride_z, unsigned stride_y, unsigned stride_x, unsigned channels) {
  spread(products, out, bias, make_uint3(depth, height, width), make_uint3(stride_z, stride_y, stride_x), channels);
}
