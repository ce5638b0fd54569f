// Separable resampling with precomputed weights, the range that cubic results are clipped to, and intensity normalisation.
#include "elements.cuh"

// Elements are counted by `Index`.
template <class Index>
__device__ void resample(const float *in, float *out, Index outer, unsigned in_len, unsigned out_len, Index inner,
                         const unsigned *first, const float *weights, unsigned taps) {
  const Index count = outer * out_len * inner;
  for (Index index = first_index(); index < count; index += index_step()) {
    const Index line = index / inner, i = index % inner;
    const unsigned j = static_cast<unsigned>(line % out_len);
    const Index o = line / out_len;
    const float *from = in + (static_cast<size_t>(o) * in_len + first[j]) * inner + i;
    float sum = 0.0f;
    for (unsigned k = 0; k < taps; ++k) {
      sum = fmaf(weights[static_cast<size_t>(j) * taps + k], from[static_cast<size_t>(k) * inner], sum);
    }
    out[index] = sum;
  }
}

// out[o, j, i] = sum over k of weights[j, k] * in[o, first[j] + k, i]. Grid: (any).
extern "C" __global__ void __launch_bounds__(256)
    resample_axis(const float *in, float *out, unsigned long long outer, unsigned in_len, unsigned out_len,
                  unsigned long long inner, const unsigned *first, const float *weights, unsigned taps) {
  if (outer * out_len * inner < 1ull << 31) {
    resample(in, out, static_cast<unsigned>(outer), in_len, out_len, static_cast<unsigned>(inner), first, weights, taps);
  } else {
    resample<size_t>(in, out, outer, in_len, out_len, inner, first, weights, taps);
  }
}

constexpr unsigned THREADS = 256;

// Smallest and largest element of this block's threads, passed on to `out`; NaN is passed over.
__device__ void reduce_range(float low, float high, float *out) {
  __shared__ float lows[THREADS], highs[THREADS];
  lows[threadIdx.x] = low;
  highs[threadIdx.x] = high;
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      lows[threadIdx.x] = fminf(lows[threadIdx.x], lows[threadIdx.x + half]);
      highs[threadIdx.x] = fmaxf(highs[threadIdx.x], highs[threadIdx.x + half]);
    }
  }
  if (threadIdx.x == 0) {
    out[0] = lows[0];
    out[1] = highs[0];
  }
}

// Range of part of each slice and channel. in: (outer, slice, inner, channel). Grid: (slices * channels, parts).
// partial: (slice, channel, part, {low, high}).
extern "C" __global__ void __launch_bounds__(256)
    range_of_parts(const float *in, float *partial, unsigned long long outer, unsigned slices, unsigned long long inner,
                   unsigned channels) {
  const unsigned slice = blockIdx.x / channels, channel = blockIdx.x % channels;
  const size_t count = static_cast<size_t>(outer) * inner;
  float low = INFINITY, high = -INFINITY;
  const size_t begin = static_cast<size_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  for (size_t e = begin; e < count; e += static_cast<size_t>(gridDim.y) * blockDim.x) {
    const size_t o = e / inner, i = e % inner;
    const float v = in[((o * slices + slice) * inner + i) * channels + channel];
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  reduce_range(low, high, partial + (static_cast<size_t>(blockIdx.x) * gridDim.y + blockIdx.y) * 2);
}

// Range of each slice and channel from its parts'. Grid: (slices * channels). ranges: (slice, channel, {low, high}).
extern "C" __global__ void __launch_bounds__(256) range_of_slices(const float *partial, float *ranges, unsigned parts) {
  const float *of_slice = partial + static_cast<size_t>(blockIdx.x) * parts * 2;
  float low = INFINITY, high = -INFINITY;
  for (unsigned p = threadIdx.x; p < parts; p += blockDim.x) {
    low = fminf(low, of_slice[2 * p]);
    high = fmaxf(high, of_slice[2 * p + 1]);
  }
  reduce_range(low, high, ranges + static_cast<size_t>(blockIdx.x) * 2);
}

// Clips x, (outer, slice, inner, channel), to the range of the slice that each slice comes from. Grid: (any).
extern "C" __global__ void __launch_bounds__(256)
    clip_to_ranges(float *x, const float *ranges, const unsigned *source, unsigned long long outer, unsigned slices,
                   unsigned long long inner, unsigned channels) {
  const size_t count = static_cast<size_t>(outer) * slices * inner * channels;
  for (size_t e = first_index(); e < count; e += index_step()) {
    const unsigned channel = static_cast<unsigned>(e % channels);
    const unsigned slice = static_cast<unsigned>(e / channels / inner % slices);
    const float *range = ranges + (static_cast<size_t>(source[slice]) * channels + channel) * 2;
    x[e] = fminf(fmaxf(x[e], range[0]), range[1]);
  }
}

// x = (clip(x, lower, upper) - mean) / std where the mask (if there is one) is not zero. NaN stays. Grid: (any).
extern "C" __global__ void __launch_bounds__(256)
    normalise_intensities(float *x, const unsigned char *mask, unsigned long long count, unsigned clips, float lower,
                          float upper, float mean, float std) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    if (mask != nullptr && mask[i] == 0) {
      continue;
    }
    float v = x[i];
    if (clips) {
      v = v < lower ? lower : v;
      v = v > upper ? upper : v;
    }
    x[i] = (v - mean) / std;
  }
}
