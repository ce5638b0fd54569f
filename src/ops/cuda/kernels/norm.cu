// Instance norm with leaky ReLU over activations (sample, voxel, channel), and the end of a residual block.
//
// Statistics take two kernels: every block sums a stretch of voxels for up to 256 channels, then the stretches of a
// channel are added in float64. Sums are of differences to the channel's first voxel, so that a mean far from zero costs no
// digits. The order of additions is fixed: results do not vary from run to run.
#include "elements.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned GROUPS = 32;
constexpr unsigned CHANNELS = GROUPS * EIGHT;

// Sums and sums of squares of one stretch of voxels.
//
// Grid: (stretches, slices of CHANNELS channels, samples). partial: (sample, stretch, {sum, square}, channel).
template <class T>
__device__ void sum_stretch(const T *x, float *partial, unsigned voxels, unsigned channels, unsigned stretch) {
  __shared__ float shared[THREADS * EIGHT];
  const unsigned first_channel = blockIdx.y * CHANNELS;
  const unsigned groups = min(GROUPS, (channels - first_channel) / EIGHT);
  const unsigned rows = THREADS / groups;
  const unsigned group = threadIdx.x % groups;
  const unsigned row = threadIdx.x / groups;
  const T *sample = x + static_cast<size_t>(blockIdx.z) * voxels * channels + first_channel + group * EIGHT;
  float pivot[EIGHT], sum[EIGHT], square[EIGHT];
  load_eight(sample, pivot);
#pragma unroll
  for (unsigned c = 0; c < EIGHT; ++c) {
    sum[c] = square[c] = 0.0f;
  }
  const unsigned begin = blockIdx.x * stretch;
  const unsigned end = min(voxels, begin + stretch);
  if (row < rows) {
    for (unsigned voxel = begin + row; voxel < end; voxel += rows) {
      float v[EIGHT];
      load_eight(sample + static_cast<size_t>(voxel) * channels, v);
#pragma unroll
      for (unsigned c = 0; c < EIGHT; ++c) {
        const float d = v[c] - pivot[c];
        sum[c] += d;
        square[c] = fmaf(d, d, square[c]);
      }
    }
  }
  float *out = partial + (static_cast<size_t>(blockIdx.z) * gridDim.x + blockIdx.x) * 2 * channels + first_channel;
  for (unsigned which = 0; which < 2; ++which) {
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      shared[threadIdx.x * EIGHT + c] = which == 0 ? sum[c] : square[c];
    }
    __syncthreads();
    const unsigned width = groups * EIGHT;
    if (threadIdx.x < width) {
      float total = 0.0f;
      for (unsigned r = 0; r < rows; ++r) {
        total += shared[r * width + threadIdx.x];
      }
      out[which * channels + threadIdx.x] = total;
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(256)
    norm_sums_f16(const __half *x, float *partial, unsigned voxels, unsigned channels, unsigned stretch) {
  sum_stretch(x, partial, voxels, channels, stretch);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_sums_f32(const float *x, float *partial, unsigned voxels, unsigned channels, unsigned stretch) {
  sum_stretch(x, partial, voxels, channels, stretch);
}

// What the norm amounts to: y = scale * x + shift.
//
// Grid: (groups of 32 channels, samples), 256 threads: 8 rows of 32 channels. affine: (sample, {scale, shift}, channel).
template <class T>
__device__ void finish_norm(const T *x, const float *partial, const float *weight, const float *bias, float *affine,
                            unsigned voxels, unsigned channels, unsigned stretches, double eps) {
  __shared__ double shared[2][8][32];
  const unsigned lane = threadIdx.x % 32;
  const unsigned row = threadIdx.x / 32;
  const unsigned channel = blockIdx.x * 32 + lane;
  const size_t sample = blockIdx.y;
  double sum = 0.0, square = 0.0;
  if (channel < channels) {
    for (unsigned s = row; s < stretches; s += 8) {
      const float *of_stretch = partial + (sample * stretches + s) * 2 * channels;
      sum += of_stretch[channel];
      square += of_stretch[channels + channel];
    }
  }
  shared[0][row][lane] = sum;
  shared[1][row][lane] = square;
  __syncthreads();
  if (row > 0 || channel >= channels) {
    return;
  }
  for (unsigned r = 1; r < 8; ++r) {
    sum += shared[0][r][lane];
    square += shared[1][r][lane];
  }
  const double pivot = static_cast<double>(static_cast<float>(x[sample * voxels * channels + channel]));
  const double offset = sum / voxels;
  const double variance = square / voxels - offset * offset;
  const double divisor = sqrt((variance > 0.0 ? variance : 0.0) + eps);
  // Without an epsilon a padded channel, which is zero everywhere, would become NaN.
  const double scale = divisor > 0.0 || weight[channel] != 0.0f ? weight[channel] / divisor : 0.0;
  affine[sample * 2 * channels + channel] = static_cast<float>(scale);
  affine[(sample * 2 + 1) * channels + channel] = static_cast<float>(bias[channel] - (pivot + offset) * scale);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_finish_f16(const __half *x, const float *partial, const float *weight, const float *bias, float *affine,
                    unsigned voxels, unsigned channels, unsigned stretches, double eps) {
  finish_norm(x, partial, weight, bias, affine, voxels, channels, stretches, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_finish_f32(const float *x, const float *partial, const float *weight, const float *bias, float *affine,
                    unsigned voxels, unsigned channels, unsigned stretches, double eps) {
  finish_norm(x, partial, weight, bias, affine, voxels, channels, stretches, eps);
}

// x = leaky_relu(scale * x + shift), in place. Grid: (any, samples).
template <class T>
__device__ void apply_norm(T *x, const float *affine, unsigned voxels, unsigned channels, float negative_slope) {
  const unsigned groups = channels / EIGHT;
  const unsigned count = voxels * groups;
  const float *scale = affine + static_cast<size_t>(blockIdx.y) * 2 * channels;
  const float *shift = scale + channels;
  T *sample = x + static_cast<size_t>(blockIdx.y) * voxels * channels;
  for (unsigned i = first_index(); i < count; i += index_step()) {
    const unsigned channel = i % groups * EIGHT;
    T *at = sample + static_cast<size_t>(i) * EIGHT;
    float v[EIGHT], by[EIGHT], plus[EIGHT];
    load_eight(at, v);
    load_eight(scale + channel, by);
    load_eight(shift + channel, plus);
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      v[c] = leaky_relu(fmaf(by[c], v[c], plus[c]), negative_slope);
    }
    store_eight(at, v);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    norm_apply_f16(__half *x, const float *affine, unsigned voxels, unsigned channels, float negative_slope) {
  apply_norm(x, affine, voxels, channels, negative_slope);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_apply_f32(float *x, const float *affine, unsigned voxels, unsigned channels, float negative_slope) {
  apply_norm(x, affine, voxels, channels, negative_slope);
}

// out = leaky_relu(a + b), eight elements a thread.
template <class T>
__device__ void add_activated(T *out, const T *a, const T *b, size_t eights, float negative_slope) {
  for (size_t i = first_index(); i < eights; i += index_step()) {
    float left[EIGHT], right[EIGHT];
    load_eight(a + i * EIGHT, left);
    load_eight(b + i * EIGHT, right);
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      left[c] = leaky_relu(left[c] + right[c], negative_slope);
    }
    store_eight(out + i * EIGHT, left);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    residual_add_f16(__half *out, const __half *a, const __half *b, unsigned long long eights, float negative_slope) {
  add_activated(out, a, b, eights, negative_slope);
}

extern "C" __global__ void __launch_bounds__(256)
    residual_add_f32(float *out, const float *a, const float *b, unsigned long long eights, float negative_slope) {
  add_activated(out, a, b, eights, negative_slope);
}

// x += bias, for a convolution without norm. Eight channels a thread.
template <class T>
__device__ void add_bias(T *x, const float *bias, size_t eights, unsigned channels) {
  for (size_t i = first_index(); i < eights; i += index_step()) {
    float v[EIGHT], plus[EIGHT];
    load_eight(x + i * EIGHT, v);
    load_eight(bias + static_cast<unsigned>(i) * EIGHT % channels, plus);
#pragma unroll
    for (unsigned c = 0; c < EIGHT; ++c) {
      v[c] += plus[c];
    }
    store_eight(x + i * EIGHT, v);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    add_bias_f16(__half *x, const float *bias, unsigned long long eights, unsigned channels) {
  add_bias(x, bias, eights, channels);
}

extern "C" __global__ void __launch_bounds__(256)
    add_bias_f32(float *x, const float *bias, unsigned long long eights, unsigned channels) {
  add_bias(x, bias, eights, channels);
}
