// Tests of the software device's convolution against a loop over everything, and of what cuDNN's calls check.
#include <array>
#include <chrono>
#include <cmath>
#include <random>

#include "cudnn_api.h"
#include "half_floats.h"
#include "self_test.h"

namespace {

using Triple = std::array<int, 3>;

// Channels last with `slice` channels of some other tensor between two voxels, or channels first.
struct Case {
    cudnnDataType_t type;
    bool channels_last;
    int slice;
    int images, in, out;
    Triple size, kernel, pad, stride;
    float alpha, beta;
    int algorithm;
};

struct Tensor {
    std::vector<int> dims;
    std::vector<int> strides;

    Tensor(const Case& c, int channels, Triple size) : dims{c.images, channels, size[0], size[1], size[2]} {
        const int step = channels + c.slice;
        const int plane = size[1] * size[2];
        const int volume = size[0] * plane;
        strides = c.channels_last ? std::vector<int>{volume * step, 1, plane * step, size[2] * step, step}
                                  : std::vector<int>{volume * channels, volume, plane, size[2], 1};
    }

    size_t elements() const { return static_cast<size_t>(dims[0]) * strides[0]; }
    size_t at(int n, int c, int z, int y, int x) const {
        return static_cast<size_t>(n) * strides[0] + c * strides[1] + z * strides[2] + y * strides[3] + x * strides[4];
    }
};

Triple out_size(const Case& c) {
    Triple result;
    for (int i = 0; i < 3; ++i) result[i] = (c.size[i] + 2 * c.pad[i] - c.kernel[i]) / c.stride[i] + 1;
    return result;
}

float rounded(const Case& c, float value) {
    return c.type == CUDNN_DATA_HALF ? software_device::half_to_float(software_device::float_to_half(value)) : value;
}

std::vector<float> random_values(const Case& c, size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = rounded(c, normal(random));
    return values;
}

CUdeviceptr upload(const Case& c, const std::vector<float>& values) {
    if (c.type == CUDNN_DATA_FLOAT) return to_device(values);
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) halves[i] = software_device::float_to_half(values[i]);
    return to_device(halves);
}

std::vector<float> download(const Case& c, CUdeviceptr address, size_t count) {
    if (c.type == CUDNN_DATA_FLOAT) return to_host<float>(address, count);
    std::vector<float> values;
    for (const uint16_t half : to_host<uint16_t>(address, count)) values.push_back(software_device::half_to_float(half));
    return values;
}

// The sum for one element of the output, in double.
double naive(const Case& c, const Tensor& x, const std::vector<float>& xs, const std::vector<float>& ws, int n,
             int channel, Triple at) {
    double sum = 0;
    const auto [kd, kh, kw] = c.kernel;
    for (int in = 0; in < c.in; ++in) {
        for (int tap = 0; tap < kd * kh * kw; ++tap) {
            const Triple offset{tap / (kh * kw), tap / kw % kh, tap % kw};
            Triple from;
            bool inside = true;
            for (int i = 0; i < 3; ++i) {
                from[i] = at[i] * c.stride[i] + offset[i] - c.pad[i];
                inside = inside && from[i] >= 0 && from[i] < c.size[i];
            }
            if (!inside) continue;
            const int taps = kd * kh * kw;
            const int w = c.channels_last ? (channel * taps + tap) * c.in + in : (channel * c.in + in) * taps + tap;
            sum += static_cast<double>(xs[x.at(n, in, from[0], from[1], from[2])]) * static_cast<double>(ws[w]);
        }
    }
    return sum;
}

// cuDNN's objects for a case, and its data on the device.
struct Setup {
    explicit Setup(const Case& c_)
        : c(c_), x(c, c.in, c.size), y(c, c.out, out_size(c)), stream(open_stream()),
          xs(random_values(c, x.elements(), 1)),
          ws(random_values(c, static_cast<size_t>(c.out) * c.in * c.kernel[0] * c.kernel[1] * c.kernel[2], 2)),
          ys(random_values(c, y.elements(), 3)) {
        const int ones[] = {1, 1, 1};
        const int w_dims[] = {c.out, c.in, c.kernel[0], c.kernel[1], c.kernel[2]};
        OK(cudnnCreate(&handle));
        OK(cudnnSetStream(handle, stream));
        OK(cudnnCreateTensorDescriptor(&x_descriptor));
        OK(cudnnCreateTensorDescriptor(&y_descriptor));
        OK(cudnnCreateFilterDescriptor(&w_descriptor));
        OK(cudnnCreateConvolutionDescriptor(&convolution));
        OK(cudnnSetTensorNdDescriptor(x_descriptor, c.type, 5, x.dims.data(), x.strides.data()));
        OK(cudnnSetTensorNdDescriptor(y_descriptor, c.type, 5, y.dims.data(), y.strides.data()));
        const auto format = c.channels_last ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW;
        OK(cudnnSetFilterNdDescriptor(w_descriptor, c.type, format, 5, w_dims));
        OK(cudnnSetConvolutionNdDescriptor(convolution, 3, c.pad.data(), c.stride.data(), ones,
                                           CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
        OK(cudnnSetConvolutionMathType(convolution, CUDNN_TENSOR_OP_MATH));
        x_data = upload(c, xs);
        w_data = upload(c, ws);
        y_data = upload(c, ys);
        if (workspace_needed() > 0) OK(cuMemAlloc(&workspace, workspace_needed()));
    }

    size_t workspace_needed() const {
        size_t result = 0;
        OK(cudnnGetConvolutionForwardWorkspaceSize(handle, x_descriptor, w_descriptor, convolution, y_descriptor,
                                                   algorithm(), &result));
        return result;
    }

    cudnnConvolutionFwdAlgo_t algorithm() const { return static_cast<cudnnConvolutionFwdAlgo_t>(c.algorithm); }

    cudnnStatus_t forward(size_t workspace_bytes) const {
        return cudnnConvolutionForward(handle, &c.alpha, x_descriptor, pointer(x_data), w_descriptor, pointer(w_data),
                                       convolution, algorithm(), pointer(workspace), workspace_bytes, &c.beta,
                                       y_descriptor, pointer(y_data));
    }

    cudnnStatus_t find(size_t workspace_bytes, std::vector<cudnnConvolutionFwdAlgoPerf_t>& results) const {
        int returned = 0;
        results.resize(8);
        const cudnnStatus_t status = cudnnFindConvolutionForwardAlgorithmEx(
            handle, x_descriptor, pointer(x_data), w_descriptor, pointer(w_data), convolution, y_descriptor,
            pointer(y_data), 8, &returned, results.data(), pointer(workspace), workspace_bytes);
        results.resize(static_cast<size_t>(returned));
        return status;
    }

    // Every element of the output against the naive sum, and every one between them against what was there.
    void check() const {
        OK(cuStreamSynchronize(stream));
        const std::vector<float> got = download(c, y_data, ys.size());
        std::vector<float> expected = ys;
        const Triple size = out_size(c);
        for (int n = 0; n < c.images; ++n)
            for (int channel = 0; channel < c.out; ++channel)
                for (int i = 0; i < size[0] * size[1] * size[2]; ++i) {
                    const Triple at{i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]};
                    float& value = expected[y.at(n, channel, at[0], at[1], at[2])];
                    const double before = c.beta == 0 ? 0 : static_cast<double>(c.beta * value);
                    value = static_cast<float>(c.alpha * naive(c, x, xs, ws, n, channel, at) + before);
                }
        const float relative = c.type == CUDNN_DATA_HALF ? 1e-3f : 1e-5f;
        for (size_t i = 0; i < got.size(); ++i) {
            CHECK(std::fabs(got[i] - expected[i]) <= relative * (1 + std::fabs(expected[i])));
        }
    }

    static void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

    Case c;
    Tensor x, y;
    CUstream stream;
    std::vector<float> xs, ws, ys;
    cudnnHandle_t handle;
    cudnnTensorDescriptor_t x_descriptor, y_descriptor;
    cudnnFilterDescriptor_t w_descriptor;
    cudnnConvolutionDescriptor_t convolution;
    CUdeviceptr x_data, w_data, y_data, workspace = 0;
};

const auto f16 = CUDNN_DATA_HALF;
const auto f32 = CUDNN_DATA_FLOAT;

const Case small{f32, true, 0, 1, 3, 5, {4, 5, 6}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, 1, 0, 1};

void convolve_and_check(const Case& c) {
    const Setup setup(c);
    OK(setup.forward(setup.workspace_needed()));
    setup.check();
}

}  // namespace

TEST(convolution_f32_channels_first, "") {
    convolve_and_check({f32, false, 0, 2, 3, 20, {4, 7, 9}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, 1, 0, 0});
}
TEST(convolution_f16_channels_first, "") {
    convolve_and_check({f16, false, 0, 1, 20, 7, {5, 6, 13}, {3, 3, 3}, {1, 1, 1}, {2, 2, 2}, 1, 0, 1});
}
TEST(convolution_f16_channels_last, "") {
    convolve_and_check({f16, true, 0, 2, 16, 32, {6, 5, 7}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, 1, 0, 1});
}
TEST(convolution_f32_channels_last_lazily, "lazy,threads=3") {
    convolve_and_check({f32, true, 0, 1, 8, 17, {9, 8, 7}, {3, 3, 3}, {1, 1, 1}, {2, 2, 2}, 1, 0, 1});
}
TEST(convolution_of_slices_added, "") {
    convolve_and_check({f16, true, 5, 2, 6, 9, {4, 6, 5}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, 1, 1, 0});
}
TEST(convolution_of_slices_scaled, "") {
    convolve_and_check({f32, true, 3, 1, 6, 9, {4, 6, 5}, {1, 3, 3}, {0, 1, 1}, {1, 2, 2}, 0.5f, -2, 1});
}
TEST(convolution_flat_kernel, "") {
    convolve_and_check({f16, true, 0, 1, 4, 8, {3, 8, 9}, {1, 3, 3}, {0, 1, 1}, {1, 1, 1}, 1, 0, 1});
}
TEST(convolution_pointwise, "") {
    convolve_and_check({f16, true, 0, 1, 33, 3, {3, 4, 5}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 1});
    convolve_and_check({f32, false, 0, 1, 5, 40, {3, 4, 5}, {1, 1, 1}, {0, 0, 0}, {2, 1, 2}, 1, 0, 1});
}

TEST(halves_round_to_even, "") {
    using namespace software_device;
    for (unsigned i = 0; i < 65536; ++i) {
        const float value = half_to_float(static_cast<uint16_t>(i));
        CHECK(std::isnan(value) || float_to_half(value) == i);
    }
    CHECK(float_to_half(1.0f + 1.0f / 2048) == 0x3C00 && float_to_half(1.0f + 3.0f / 2048) == 0x3C02);
    CHECK(float_to_half(65519.9f) == 0x7BFF && float_to_half(65520.0f) == 0x7C00);
    CHECK(float_to_half(-1e-9f) == 0x8000 && float_to_half(std::ldexp(1.5f, -24)) == 2);
    CHECK(std::isnan(half_to_float(float_to_half(NAN))));
}

TEST(algorithms_are_ranked, "") {
    const Setup setup(small);
    std::vector<cudnnConvolutionFwdAlgoPerf_t> results;
    OK(setup.find(setup.workspace_needed(), results));
    CHECK(results.size() == 3 && results[0].algo == 1 && results[1].algo == 0 && results[2].algo == 2);
    CHECK(results[0].status == 0 && results[1].status == 0 && results[2].status == CUDNN_STATUS_NOT_SUPPORTED);
    CHECK(0 < results[0].time && results[0].time < results[1].time);
    CHECK(results[0].memory == setup.workspace_needed() && results[0].memory > 0 && results[1].memory == 0);
    CHECK(download(small, setup.y_data, 1)[0] != setup.ys[0]);
    OK(setup.find(results[0].memory - 1, results));
    CHECK(results[0].algo == 0 && results[1].algo == 1 && results[1].status != 0);
}

TEST(an_algorithm_can_be_missing, "conv-unsupported=0") {
    Case c = small;
    const Setup setup(c);
    std::vector<cudnnConvolutionFwdAlgoPerf_t> results;
    OK(setup.find(setup.workspace_needed(), results));
    CHECK(results[0].algo == 1 && results[1].status == CUDNN_STATUS_NOT_SUPPORTED);
    size_t bytes;
    EXPECT(CUDNN_STATUS_NOT_SUPPORTED,
           cudnnGetConvolutionForwardWorkspaceSize(setup.handle, setup.x_descriptor, setup.w_descriptor,
                                                   setup.convolution, setup.y_descriptor,
                                                   CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, &bytes));
}

TEST(convolutions_are_checked, "") {
    Setup setup(small);
    const size_t workspace = setup.workspace_needed();
    EXPECT(CUDNN_STATUS_BAD_PARAM, setup.forward(workspace - 1));
    char message[256];
    cudnnGetLastErrorString(message, sizeof message);
    CHECK(std::string(message).find("workspace") != std::string::npos);
    const CUdeviceptr y_data = setup.y_data;
    setup.y_data = 0;
    EXPECT(CUDNN_STATUS_BAD_PARAM, setup.forward(workspace));
    setup.y_data = y_data + 4;
    EXPECT(CUDNN_STATUS_BAD_PARAM, setup.forward(workspace));
    setup.y_data = y_data;
    setup.y.dims[4] += 1;
    OK(cudnnSetTensorNdDescriptor(setup.y_descriptor, f32, 5, setup.y.dims.data(), setup.y.strides.data()));
    EXPECT(CUDNN_STATUS_BAD_PARAM, setup.forward(workspace));
}

TEST(lost_device_fails_convolutions, "lost-at=2") {
    const Setup setup(small);
    OK(setup.forward(setup.workspace_needed()));
    EXPECT(CUDNN_STATUS_EXECUTION_FAILED, setup.forward(setup.workspace_needed()));
    EXPECT(CUDNN_STATUS_EXECUTION_FAILED, cudnnSetStream(setup.handle, setup.stream));
}

TEST(old_cudnn, "cudnn=8") { CHECK(cudnnGetVersion() == 8902); }

TEST(convolutions_are_captured, "") {
    const Setup setup(small);
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamBeginCapture(setup.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(setup.forward(setup.workspace_needed()));
    OK(cuStreamEndCapture(setup.stream, &graph));
    CHECK(download(small, setup.y_data, setup.ys.size()) == setup.ys);
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    // What was captured does not need the descriptors any more.
    OK(cudnnDestroyTensorDescriptor(setup.x_descriptor));
    OK(cuGraphLaunch(executable, setup.stream));
    setup.check();
}

TEST(convolution_speed, "") {
    const Case c{f16, true, 0, 1, 32, 32, {16, 64, 64}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, 1, 0, 1};
    const Setup setup(c);
    const size_t workspace = setup.workspace_needed();
    const auto start = std::chrono::steady_clock::now();
    OK(setup.forward(workspace));
    OK(cuStreamSynchronize(setup.stream));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double operations = 2.0 * 16 * 64 * 64 * 32 * 32 * 27;
    printf("(%.1f GFLOP/s) ", operations / seconds.count() / 1e9);
}
