// A cross-correlation of three-dimensional images with many channels, summed in f32: what cudnnConvolutionForward
// computes. Two-dimensional tensors have depth 1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace software_device {

using Triple = std::array<int, 3>;  // depth, height, width

enum class Number { f32, f16 };

struct Layout {
    int64_t image;
    int64_t channel;
    std::array<int64_t, 3> space;
};

struct Convolution {
    Number number;
    int images;
    int channels_in;
    int channels_out;
    Triple in;
    Triple out;
    Triple kernel;
    Triple pad;
    Triple stride;
    Triple dilation;
    Layout x_layout;
    Layout y_layout;
    bool filter_channels_last;
    float alpha;
    float beta;
    const void* x;
    const void* w;
    void* y;
};

void convolve(const Convolution& convolution);

}  // namespace software_device
