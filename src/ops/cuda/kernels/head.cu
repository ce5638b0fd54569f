// The segmentation head and the sums over mirrorings, tiles and folds.
//
// A thread takes one voxel of the tile as the image has it, computes the logits of that voxel in every mirrored copy, and adds
// them up in the order of the copies. The last copies' thread also weighs the mean and adds it to the image's sums. Tiles that
// overlap go one after the other: sums do not depend on the order in which threads run.
#include "elements.cuh"
#include "tiles.cuh"

// Logits that are summed in registers at a time.
constexpr unsigned CLASSES = 8;

__device__ __forceinline__ void add_to(float *sum, float value) { *sum += value; }

// Rounded after every addition, as nnU-Net's own sums are.
__device__ __forceinline__ void add_to(__half *sum, float value) {
  *sum = __float2half_rn(__half2float(*sum) + value);
}

struct Head {
  // (class, channel)
  const float *weight;
  // (class)
  const float *bias;
  unsigned classes;
  unsigned channels;
};

// Logits of classes first, first + 1, … at one voxel.
template <class T>
__device__ __forceinline__ void logits_of(const Head &head, const T *features, unsigned first, float (&logits)[CLASSES]) {
  const unsigned count = min(CLASSES, head.classes - first);
#pragma unroll
  for (unsigned k = 0; k < CLASSES; ++k) {
    logits[k] = k < count ? head.bias[first + k] : 0.0f;
  }
  for (unsigned channel = 0; channel < head.channels; channel += EIGHT) {
    float v[EIGHT];
    load_eight(features + channel, v);
#pragma unroll
    for (unsigned k = 0; k < CLASSES; ++k) {
      if (k < count) {
        const float *weight = head.weight + static_cast<size_t>(first + k) * head.channels + channel;
#pragma unroll
        for (unsigned c = 0; c < EIGHT; ++c) {
          logits[k] = fmaf(weight[c], v[c], logits[k]);
        }
      }
    }
  }
}

struct Copies {
  // Of this tile, among which the first is job number first.
  const Job *jobs;
  unsigned first, count;
  // Number of copies that the mean is over.
  unsigned predictions;
  // Whether copies before these are in the tile's sum, and whether copies after these follow.
  bool continued, unfinished;
};

// features: (job, tile voxel, channel). tile_sum: (tile voxel, class), read if continued, written if unfinished.
// sums: (image voxel, class). weights: (tile voxel).
template <class T, class S>
__device__ void accumulate(const T *features, const Head &head, const Copies &copies, float *tile_sum, const float *weights,
                           S *sums, Grid image, Grid tile) {
  const unsigned voxels = static_cast<unsigned>(voxels_of(tile));
  for (size_t i = first_index(); i < voxels; i += index_step()) {
    Job at = voxel_of(static_cast<unsigned>(i), tile);
    Job in = at;
    const bool inside = in_image(copies.jobs[copies.first], in, image);
    if (!inside && !copies.unfinished) {
      continue;
    }
    for (unsigned first = 0; first < head.classes; first += CLASSES) {
      const unsigned count = min(CLASSES, head.classes - first);
      float total[CLASSES];
#pragma unroll
      for (unsigned k = 0; k < CLASSES; ++k) {
        total[k] = copies.continued && k < count ? tile_sum[i * head.classes + first + k] : 0.0f;
      }
      for (unsigned j = copies.first; j < copies.first + copies.count; ++j) {
        const size_t voxel = index_in(mirrored(at, copies.jobs[j].mirrored, tile), tile);
        float logits[CLASSES];
        logits_of(head, features + (static_cast<size_t>(j) * voxels + voxel) * head.channels, first, logits);
#pragma unroll
        for (unsigned k = 0; k < CLASSES; ++k) {
          total[k] += logits[k];
        }
      }
#pragma unroll
      for (unsigned k = 0; k < CLASSES; ++k) {
        if (k >= count) {
          continue;
        }
        if (copies.unfinished) {
          tile_sum[i * head.classes + first + k] = total[k];
        } else {
          const float mean = total[k] / static_cast<float>(copies.predictions);
          add_to(sums + index_in(in, image) * head.classes + first + k, mean * weights[i]);
        }
      }
    }
  }
}

#define ACCUMULATE_LOGITS(NAME, FEATURE, SUM)                                                                          \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      NAME(const FEATURE *features, const float *weight, const float *bias, unsigned classes, unsigned channels,       \
           const Job *jobs, unsigned first, unsigned count, unsigned predictions, unsigned continued,                  \
           unsigned unfinished, float *tile_sum, const float *weights, SUM *sums, Grid image, Grid tile) {             \
    const Head head = {weight, bias, classes, channels};                                                              \
    const Copies copies = {jobs, first, count, predictions, continued != 0, unfinished != 0};                         \
    accumulate(features, head, copies, tile_sum, weights, sums, image, tile);                                          \
  }

ACCUMULATE_LOGITS(accumulate_logits_f16_f32, __half, float)
ACCUMULATE_LOGITS(accumulate_logits_f16_f16, __half, __half)
ACCUMULATE_LOGITS(accumulate_logits_f32_f32, float, float)
ACCUMULATE_LOGITS(accumulate_logits_f32_f16, float, __half)

// Adds the weights of a tile to the image's sum of weights, (image voxel).
template <class S>
__device__ void count_tile(const float *weights, S *sums, Job start, Grid image, Grid tile) {
  const unsigned voxels = static_cast<unsigned>(voxels_of(tile));
  for (size_t i = first_index(); i < voxels; i += index_step()) {
    Job at = voxel_of(static_cast<unsigned>(i), tile);
    if (in_image(start, at, image)) {
      add_to(sums + index_in(at, image), weights[i]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
    count_weights_f32(const float *weights, float *sums, Job start, Grid image, Grid tile) {
  count_tile(weights, sums, start, image, tile);
}

extern "C" __global__ void __launch_bounds__(256)
    count_weights_f16(const float *weights, __half *sums, Job start, Grid image, Grid tile) {
  count_tile(weights, sums, start, image, tile);
}

// Turns float32 sums over all folds into means: sums (voxel, class) divided by weight * folds.
extern "C" __global__ void __launch_bounds__(256)
    mean_of_sums_f32(float *sums, const float *weights, unsigned long long voxels, unsigned classes, float folds) {
  const size_t count = static_cast<size_t>(voxels) * classes;
  for (size_t i = first_index(); i < count; i += index_step()) {
    sums[i] = sums[i] / (weights[i / classes] * folds);
  }
}

// Ends a fold of float16 sums: its logits, rounded, are added to those of the folds before, rounded; the sums become zero.
// overflow is set to 1 if a logit is infinite.
extern "C" __global__ void __launch_bounds__(256)
    end_fold_f16(__half *sums, const __half *weights, __half *logits, unsigned long long voxels, unsigned classes,
                 unsigned is_first, int *overflow) {
  const size_t count = static_cast<size_t>(voxels) * classes;
  for (size_t i = first_index(); i < count; i += index_step()) {
    const __half logit = __float2half_rn(__half2float(sums[i]) / __half2float(weights[i / classes]));
    const float before = is_first ? 0.0f : __half2float(logits[i]);
    const __half total = is_first ? logit : __float2half_rn(before + __half2float(logit));
    logits[i] = total;
    sums[i] = __float2half_rn(0.0f);
    if (isinf(__half2float(total))) {
      *overflow = 1;
    }
  }
}

// The mean over folds of float16 logits, rounded, as float32 numbers.
extern "C" __global__ void __launch_bounds__(256)
    mean_of_logits_f16(const __half *logits, float *means, unsigned long long count, float folds) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const float v = __half2float(logits[i]);
    means[i] = folds > 1.0f ? __half2float(__float2half_rn(v / folds)) : v;
  }
}
