// Cutting tiles out of the image, mirrored, for the network's input: crop, pad and flip in one.
#include "elements.cuh"
#include "tiles.cuh"

// image: (image channel, z, y, x); out: (job, tile voxel, channel), zero outside the image and in padded channels. Grid: (any, jobs).
template <class T>
__device__ void gather(const float *image, const Job *jobs, T *out, Grid image_grid, Grid tile, unsigned image_channels,
                       unsigned channels) {
  const unsigned voxels = static_cast<unsigned>(voxels_of(tile));
  const size_t plane = voxels_of(image_grid);
  const Job job = jobs[blockIdx.y];
  T *to = out + static_cast<size_t>(blockIdx.y) * voxels * channels;
  for (size_t i = first_index(); i < voxels; i += index_step()) {
    Job at = mirrored(voxel_of(static_cast<unsigned>(i), tile), job.mirrored, tile);
    const bool inside = in_image(job, at, image_grid);
    const float *from = image + (inside ? index_in(at, image_grid) : 0);
    for (unsigned channel = 0; channel < channels; channel += EIGHT) {
      float v[EIGHT];
#pragma unroll
      for (unsigned c = 0; c < EIGHT; ++c) {
        v[c] = inside && channel + c < image_channels ? from[(channel + c) * plane] : 0.0f;
      }
      store_eight(to + i * channels + channel, v);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
    gather_tiles_f16(const float *image, const Job *jobs, __half *out, Grid image_grid, Grid tile, unsigned image_channels,
                     unsigned channels) {
  gather(image, jobs, out, image_grid, tile, image_channels, channels);
}

extern "C" __global__ void __launch_bounds__(256)
    gather_tiles_f32(const float *image, const Job *jobs, float *out, Grid image_grid, Grid tile, unsigned image_channels,
                     unsigned channels) {
  gather(image, jobs, out, image_grid, tile, image_channels, channels);
}
