// See convolution.h. One plane of the output after the other, on several host threads. The planes of the input that it
// needs are converted to f32 with the channels last and zeros around them. The innermost loop multiplies the channels
// of `positions` neighbouring voxels with the weights of `lanes` output channels; both numbers fill the registers of a
// processor with AVX2.
#include "convolution.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "half_floats.h"
#include "launches.h"

namespace software_device {

namespace {

constexpr int lanes = 16;
constexpr int positions = 6;

using Lanes __attribute__((vector_size(lanes * sizeof(float)))) = float;

float read(const void* data, int64_t index, Number number) {
    if (number == Number::f32) return static_cast<const float*>(data)[index];
    return half_to_float(static_cast<const uint16_t*>(data)[index]);
}

void write(void* data, int64_t index, Number number, float value) {
    if (number == Number::f32) {
        static_cast<float*>(data)[index] = value;
    } else {
        static_cast<uint16_t*>(data)[index] = float_to_half(value);
    }
}

// Weights as [block of output channels][kernel depth][height][width][input channel], each entry a vector of output
// channels; zeros where the last block is not full.
std::vector<Lanes> pack_weights(const Convolution& c) {
    const int taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
    const int blocks = (c.channels_out + lanes - 1) / lanes;
    std::vector<Lanes> packed(static_cast<size_t>(blocks) * taps * c.channels_in, Lanes{});
    for (int out = 0; out < c.channels_out; ++out) {
        for (int tap = 0; tap < taps; ++tap) {
            for (int in = 0; in < c.channels_in; ++in) {
                const int64_t rest = c.filter_channels_last ? int64_t{tap} * c.channels_in + in : int64_t{in} * taps + tap;
                const int64_t from = int64_t{out} * c.channels_in * taps + rest;
                const size_t to = (static_cast<size_t>(out / lanes) * taps + tap) * c.channels_in + in;
                packed[to][out % lanes] = read(c.w, from, c.number);
            }
        }
    }
    return packed;
}

// The rows and columns of the input that one output plane touches, padding included.
int touched(const Convolution& c, int axis) {
    return (c.out[axis] - 1) * c.stride[axis] + (c.kernel[axis] - 1) * c.dilation[axis] + 1;
}

// Planes of the input, converted and padded, each kept until another needs its place.
class Planes {
public:
    explicit Planes(const Convolution& c)
        : c_(c), height_(touched(c, 1)), width_(touched(c, 2)), slots_((c.kernel[0] - 1) * c.dilation[0] + 1) {}

    // Null where the plane is padding.
    const float* get(int image, int depth) {
        if (depth < 0 || depth >= c_.in[0]) return nullptr;
        Slot& slot = slots_[static_cast<size_t>(depth) % slots_.size()];
        if (slot.image != image || slot.depth != depth) {
            slot.values.resize(static_cast<size_t>(height_) * width_ * c_.channels_in);
            fill(slot.values.data(), image, depth);
            slot.image = image;
            slot.depth = depth;
        }
        return slot.values.data();
    }

    int width() const { return width_; }

private:
    struct Slot {
        int image = -1;
        int depth = -1;
        std::vector<float> values;
    };

    void fill(float* to, int image, int depth) const {
        const Layout& layout = c_.x_layout;
        for (int row = 0; row < height_; ++row) {
            for (int column = 0; column < width_; ++column, to += c_.channels_in) {
                const int y = row - c_.pad[1];
                const int x = column - c_.pad[2];
                if (y < 0 || y >= c_.in[1] || x < 0 || x >= c_.in[2]) {
                    std::fill(to, to + c_.channels_in, 0.0f);
                    continue;
                }
                const int64_t from = image * layout.image + depth * layout.space[0] + y * layout.space[1] +
                                     x * layout.space[2];
                for (int channel = 0; channel < c_.channels_in; ++channel) {
                    to[channel] = read(c_.x, from + channel * layout.channel, c_.number);
                }
            }
        }
    }

    const Convolution& c_;
    const int height_;
    const int width_;
    std::vector<Slot> slots_;
};

// Sums for neighbouring positions of one row of the output.
struct Sums {
    Lanes of[positions];
};

void add_tap(Sums& sums, const float* const (&x)[positions], const Lanes* w, int channels) {
    for (int channel = 0; channel < channels; ++channel) {
        const Lanes weights = w[channel];
        for (int p = 0; p < positions; ++p) sums.of[p] += x[p][channel] * weights;
    }
}

class PlaneOfOutput {
public:
    PlaneOfOutput(const Convolution& c, const std::vector<Lanes>& weights, Planes& planes, int image, int depth)
        : c_(c), weights_(weights), width_(planes.width()), image_(image), depth_(depth) {
        for (int tap = 0; tap < c.kernel[0]; ++tap) {
            inputs_.push_back(planes.get(image, depth * c.stride[0] + tap * c.dilation[0] - c.pad[0]));
        }
    }

    void compute() const {
        for (int first = 0; first < c_.channels_out; first += lanes) {
            for (int row = 0; row < c_.out[1]; ++row) {
                for (int column = 0; column < c_.out[2]; column += positions) {
                    store(first, row, column, sums_at(first, row, column));
                }
            }
        }
    }

private:
    Sums sums_at(int first, int row, int column) const {
        Sums sums{};
        const int taps = c_.kernel[0] * c_.kernel[1] * c_.kernel[2];
        const Lanes* w = weights_.data() + static_cast<size_t>(first / lanes) * taps * c_.channels_in;
        for (const float* input : inputs_) {
            for (int ky = 0; ky < c_.kernel[1]; ++ky) {
                for (int kx = 0; kx < c_.kernel[2]; ++kx, w += c_.channels_in) {
                    if (input == nullptr) continue;
                    const float* x[positions];
                    for (int p = 0; p < positions; ++p) x[p] = voxel(input, row, column + p, ky, kx);
                    add_tap(sums, x, w, c_.channels_in);
                }
            }
        }
        return sums;
    }

    // Positions behind the row's end repeat its last one; their sums are not stored.
    const float* voxel(const float* input, int row, int column, int ky, int kx) const {
        const int within = std::min(column, c_.out[2] - 1);
        const int y = row * c_.stride[1] + ky * c_.dilation[1];
        const int x = within * c_.stride[2] + kx * c_.dilation[2];
        return input + (static_cast<size_t>(y) * width_ + x) * c_.channels_in;
    }

    void store(int first, int row, int column, const Sums& sums) const {
        const Layout& layout = c_.y_layout;
        const int64_t line = image_ * layout.image + depth_ * layout.space[0] + row * layout.space[1];
        const int last = std::min(first + lanes, c_.channels_out);
        for (int p = 0; p < positions && column + p < c_.out[2]; ++p) {
            for (int channel = first; channel < last; ++channel) {
                const int64_t to = line + (column + p) * layout.space[2] + channel * layout.channel;
                const float before = c_.beta == 0 ? 0 : c_.beta * read(c_.y, to, c_.number);
                write(c_.y, to, c_.number, c_.alpha * sums.of[p][channel - first] + before);
            }
        }
    }

    const Convolution& c_;
    const std::vector<Lanes>& weights_;
    const int width_;
    const int image_;
    const int depth_;
    std::vector<const float*> inputs_;
};

}  // namespace

void convolve(const Convolution& convolution) {
    const std::vector<Lanes> weights = pack_weights(convolution);
    const auto depth = static_cast<uint64_t>(convolution.out[0]);
    const uint64_t planes_of_output = depth * static_cast<uint64_t>(convolution.images);
    const uint64_t chunk = std::max<uint64_t>(1, planes_of_output / 8);
    in_parallel(planes_of_output, chunk, [&](uint64_t begin, uint64_t end) {
        Planes planes(convolution);
        for (uint64_t i = begin; i < end; ++i) {
            PlaneOfOutput(convolution, weights, planes, static_cast<int>(i / depth), static_cast<int>(i % depth))
                .compute();
        }
    });
}

}  // namespace software_device
