// Labels and one class's probability of logits on the scan's grid, a slab at a time.
#include "elements.cuh"

__device__ __forceinline__ float logit_at(const float *logits, unsigned head, bool round_to_half) {
  const float v = logits[head];
  return round_to_half ? __half2float(__float2half_rn(v)) : v;
}

__device__ __forceinline__ float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

// Softmax: label of the first of the largest values, and the probability of one head.
__device__ void decide_softmax(const float *logits, unsigned heads, bool round_to_half, bool by_logits, int head,
                               unsigned short &label, float &probability) {
  float largest = -INFINITY;
  unsigned first = 0;
  for (unsigned k = 0; k < heads; ++k) {
    const float v = logit_at(logits, k, round_to_half);
    if (v > largest) {
      largest = v;
      first = k;
    }
  }
  label = static_cast<unsigned short>(first);
  if (by_logits && head < 0) {
    return;
  }
  float sum = 0.0f;
  for (unsigned k = 0; k < heads; ++k) {
    sum += expf(logit_at(logits, k, round_to_half) - largest);
  }
  float best = -INFINITY;
  for (unsigned k = 0; k < heads; ++k) {
    const float p = expf(logit_at(logits, k, round_to_half) - largest) / sum;
    if (!by_logits && p > best) {
      best = p;
      label = static_cast<unsigned short>(k);
    }
    if (static_cast<int>(k) == head) {
      probability = p;
    }
  }
  if (!by_logits && best == -INFINITY) {
    label = 0;
  }
}

// Regions: the label of the last head whose probability is above a half, and the probability of one head.
__device__ void decide_regions(const float *logits, unsigned heads, bool round_to_half, const unsigned short *paint, int head,
                               unsigned short &label, float &probability) {
  label = 0;
  for (unsigned k = 0; k < heads; ++k) {
    const float p = sigmoid(logit_at(logits, k, round_to_half));
    if (p > 0.5f) {
      label = paint[k];
    }
    if (static_cast<int>(k) == head) {
      probability = p;
    }
  }
}

// logits: (voxel, head). paint: the label of each region, null for a softmax. head: whose probability is asked for, -1: none.
extern "C" __global__ void __launch_bounds__(256)
    decide_voxels(const float *logits, unsigned long long voxels, unsigned heads, const unsigned short *paint,
                  unsigned by_logits, unsigned round_to_half, int head, unsigned short *labels, float *probabilities) {
  for (size_t i = first_index(); i < voxels; i += index_step()) {
    const float *of_voxel = logits + i * heads;
    unsigned short label = 0;
    float probability = 0.0f;
    if (paint != nullptr) {
      decide_regions(of_voxel, heads, round_to_half != 0, paint, head, label, probability);
    } else {
      decide_softmax(of_voxel, heads, round_to_half != 0, by_logits != 0, head, label, probability);
    }
    labels[i] = label;
    if (head >= 0) {
      probabilities[i] = probability;
    }
  }
}
