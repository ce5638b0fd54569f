// Average pooling: the mean over every window of a finer grid.
#include "elements.cuh"

// x: (sample, voxel of the grid `fine`, channel); out: (sample, voxel of the grid `coarse`, channel). Voxels at the far ends that
// fill no window are dropped. Grid: (any, samples).
template <class T>
__device__ void average(const T *x, T *out, uint3 fine, uint3 coarse, uint3 stride, unsigned channels) {
  const unsigned groups = channels / EIGHT;
  const unsigned count = coarse.x * coarse.y * coarse.z * groups;
  const float voxels = static_cast<float>(stride.x * stride.y * stride.z);
  const T *from = x + static_cast<size_t>(blockIdx.y) * fine.x * fine.y * fine.z * channels;
  T *to = out + static_cast<size_t>(blockIdx.y) * count * EIGHT;
  for (unsigned i = first_index(); i < count; i += index_step()) {
    const unsigned voxel = i / groups;
    const unsigned z = voxel / coarse.z / coarse.y, y = voxel / coarse.z % coarse.y, x_ = voxel % coarse.z;
    const size_t corner = (static_cast<size_t>(z * stride.x) * fine.y + y * stride.y) * fine.z + x_ * stride.z;
    const T *window = from + corner * channels + i % groups * EIGHT;
    float sum[EIGHT] = {};
    for (unsigned dz = 0; dz < stride.x; ++dz) {
      for (unsigned dy = 0; dy < stride.y; ++dy) {
        const T *row = window + static_cast<size_t>(dz * fine.y + dy) * fine.z * channels;
        for (unsigned dx = 0; dx < stride.z; ++dx) {
          float v[EIGHT];
          load_eight(row + static_cast<size_t>(dx) * channels, v);
#pragma unroll
          for (unsigned c = 0; c < EIGHT; ++c) {
            sum[c] += v[c];
          }
        }
      }
    }
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      sum[c] /= voxels;
    }
    store_eight(to + static_cast<size_t>(i) * EIGHT, sum);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    average_pool_f16(const __half *x, __half *out, unsigned depth, unsigned height, unsigned width, unsigned out_depth,
                     unsigned out_height, unsigned out_width, unsigned stride_z, unsigned stride_y, unsigned stride_x,
                     unsigned channels) {
  average(x, out, make_uint3(depth, height, width), make_uint3(out_depth, out_height, out_width),
          make_uint3(stride_z, stride_y, stride_x), channels);
}

extern "C" __global__ void __launch_bounds__(256)
    average_pool_f32(const float *x, float *out, unsigned depth, unsigned height, unsigned width, unsigned out_depth,
                     unsigned out_height, unsigned out_width, unsigned stride_z, unsigned stride_y, unsigned stride_x,
                     unsigned channels) {
  average(x, out, make_uint3(depth, height, width), make_uint3(out_depth, out_height, out_width),
          make_uint3(stride_z, stride_y, stride_x), channels);
}
