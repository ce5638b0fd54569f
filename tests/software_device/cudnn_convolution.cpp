// cuDNN's convolution: what it checks, which algorithms it offers, and queueing the work.
#include <algorithm>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "cudnn_state.h"
#include "faults.h"
#include "memory.h"
#include "streams.h"

using namespace software_device;

namespace {

constexpr unsigned char garbage = 0x7B;  // large finite numbers, as f16 and as f32

size_t width(cudnnDataType_t type) { return type == CUDNN_DATA_HALF ? 2 : 4; }

Triple triple(const std::vector<int>& values, size_t skip, int missing) {
    const size_t count = values.size() - skip;
    Triple result{missing, missing, missing};
    std::copy(values.begin() + static_cast<ptrdiff_t>(skip), values.end(),
              result.end() - static_cast<ptrdiff_t>(count));
    return result;
}

Layout layout(const cudnnTensorStruct& tensor) {
    const Triple space = triple(tensor.strides, 2, 0);
    return {tensor.strides[0], tensor.strides[1], {space[0], space[1], space[2]}};
}

// From the first element of a tensor to behind its last.
size_t span(const cudnnTensorStruct& tensor) {
    size_t last = 0;
    for (size_t i = 0; i < tensor.dims.size(); ++i) {
        last += static_cast<size_t>(tensor.dims[i] - 1) * static_cast<size_t>(tensor.strides[i]);
    }
    return (last + 1) * width(tensor.type);
}

size_t span(const cudnnFilterStruct& filter) {
    size_t elements = 1;
    for (const int dim : filter.dims) elements *= static_cast<size_t>(dim);
    return elements * width(filter.type);
}

size_t elements(const cudnnTensorStruct& tensor) {
    size_t result = 1;
    for (const int dim : tensor.dims) result *= static_cast<size_t>(dim);
    return result;
}

std::string text(const std::vector<int>& values) {
    std::string result;
    for (const int value : values) result += (result.empty() ? "[" : ", ") + std::to_string(value);
    return result + "]";
}

std::vector<int> output_dims(const cudnnConvolutionStruct& c, const cudnnTensorStruct& x, const cudnnFilterStruct& w) {
    const size_t spatial = c.pads.size();
    const bool same_rank = x.dims.size() == spatial + 2 && w.dims.size() == spatial + 2;
    require(same_rank && spatial >= 2 && spatial <= 3, CUDNN_STATUS_BAD_PARAM,
            "ranks of input, filter and convolution do not fit");
    require(x.dims[1] == w.dims[1] * c.groups, CUDNN_STATUS_BAD_PARAM,
            "the input has " + std::to_string(x.dims[1]) + " channels, the filter " + std::to_string(w.dims[1]));
    std::vector<int> result{x.dims[0], w.dims[0]};
    for (size_t i = 0; i < spatial; ++i) {
        const int reach = (w.dims[i + 2] - 1) * c.dilations[i] + 1;
        const int room = x.dims[i + 2] + 2 * c.pads[i] - reach;
        require(room >= 0, CUDNN_STATUS_BAD_PARAM, "the filter is larger than the padded input");
        result.push_back(room / c.strides[i] + 1);
    }
    return result;
}

// The descriptors of one call, checked against each other.
struct Problem {
    Problem(cudnnTensorDescriptor_t x_, cudnnFilterDescriptor_t w_, cudnnConvolutionDescriptor_t c_,
            cudnnTensorDescriptor_t y_) {
        require(x_ && w_ && c_ && y_, CUDNN_STATUS_BAD_PARAM, "null descriptor");
        require(!x_->dims.empty() && !w_->dims.empty() && !c_->pads.empty() && !y_->dims.empty(),
                CUDNN_STATUS_BAD_PARAM, "a descriptor that was not set");
        x = *x_;
        w = *w_;
        c = *c_;
        y = *y_;
        require(c.groups == 1, CUDNN_STATUS_NOT_SUPPORTED, "groups");
        require(x.type == w.type && x.type == y.type, CUDNN_STATUS_NOT_SUPPORTED, "mixed data types");
        const std::vector<int> expected = output_dims(c, x, w);
        require(y.dims == expected, CUDNN_STATUS_BAD_PARAM,
                "the output must be " + text(expected) + ", is " + text(y.dims));
    }

    size_t workspace(int algorithm) const {
        return algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM ? 0 : 2 * elements(x) * width(x.type);
    }

    cudnnTensorStruct x;
    cudnnFilterStruct w;
    cudnnConvolutionStruct c;
    cudnnTensorStruct y;
};

bool supported(int algorithm) {
    const bool known = algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM ||
                       algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
    return known && settings().conv_unsupported.count(algorithm) == 0;
}

// Every algorithm that a device would name, those that can run first and the fast one before the slow one.
std::vector<cudnnConvolutionFwdAlgoPerf_t> ranking(const Problem& problem, size_t workspace_at_most) {
    const double operations = 2.0 * static_cast<double>(elements(problem.y)) * static_cast<double>(span(problem.w)) /
                              static_cast<double>(width(problem.w.type)) / problem.w.dims[0];
    std::vector<cudnnConvolutionFwdAlgoPerf_t> result;
    for (const int algorithm : {1, 0, 2}) {
        cudnnConvolutionFwdAlgoPerf_t entry{};
        entry.algo = static_cast<cudnnConvolutionFwdAlgo_t>(algorithm);
        entry.memory = problem.workspace(algorithm);
        entry.determinism = CUDNN_DETERMINISTIC;
        entry.mathType = problem.c.math;
        entry.time = static_cast<float>(0.005 + operations / (algorithm == 1 ? 1e9 : 4e8));
        if (!supported(algorithm)) entry.status = CUDNN_STATUS_NOT_SUPPORTED;
        if (supported(algorithm) && entry.memory > workspace_at_most) entry.status = CUDNN_STATUS_INTERNAL_ERROR;
        if (entry.status != CUDNN_STATUS_SUCCESS) entry.time = -1;
        result.push_back(entry);
    }
    std::stable_partition(result.begin(), result.end(),
                          [](const auto& entry) { return entry.status == CUDNN_STATUS_SUCCESS; });
    return result;
}

void hand_over(const std::vector<cudnnConvolutionFwdAlgoPerf_t>& ranked, int requested, int* returned,
               cudnnConvolutionFwdAlgoPerf_t* results) {
    require(requested > 0 && returned && results, CUDNN_STATUS_BAD_PARAM, "no room for the results");
    *returned = std::min(requested, static_cast<int>(ranked.size()));
    std::copy_n(ranked.begin(), *returned, results);
}

void require_on_device(const void* data, size_t bytes, const char* what) {
    require(data != nullptr, CUDNN_STATUS_BAD_PARAM, std::string(what) + " is null");
    if (on_device(data, bytes)) return;
    const std::string message = std::string(what) + " does not lie in one allocation of the device";
    complain("%s", message.c_str());
    require(false, CUDNN_STATUS_BAD_PARAM, message);
}

void check_data(const Problem& problem, const void* x, const void* w, const void* y, const void* workspace,
                size_t workspace_bytes) {
    require_on_device(x, span(problem.x), "x");
    require_on_device(w, span(problem.w), "w");
    require_on_device(y, span(problem.y), "y");
    if (workspace_bytes > 0) require_on_device(workspace, workspace_bytes, "the workspace");
}

Convolution convolution(const Problem& problem, const void* alpha, const void* beta, const void* x, const void* w,
                        void* y) {
    Convolution result{};
    result.number = problem.x.type == CUDNN_DATA_HALF ? Number::f16 : Number::f32;
    result.images = problem.x.dims[0];
    result.channels_in = problem.x.dims[1];
    result.channels_out = problem.y.dims[1];
    result.in = triple(problem.x.dims, 2, 1);
    result.out = triple(problem.y.dims, 2, 1);
    result.kernel = triple(problem.w.dims, 2, 1);
    result.pad = triple(problem.c.pads, 0, 0);
    result.stride = triple(problem.c.strides, 0, 1);
    result.dilation = triple(problem.c.dilations, 0, 1);
    result.x_layout = layout(problem.x);
    result.y_layout = layout(problem.y);
    result.filter_channels_last = problem.w.format == CUDNN_TENSOR_NHWC;
    memcpy(&result.alpha, alpha, sizeof result.alpha);
    memcpy(&result.beta, beta, sizeof result.beta);
    result.x = x;
    result.w = w;
    result.y = y;
    return result;
}

// Only elements that belong to the tensor: between them may lie another tensor's channels.
void overwrite(const Convolution& c) {
    const size_t bytes = c.number == Number::f16 ? 2 : 4;
    for (int64_t i = 0; i < int64_t{c.images} * c.channels_out * c.out[0] * c.out[1] * c.out[2]; ++i) {
        int64_t rest = i;
        int64_t at = 0;
        for (int axis = 2; axis >= 0; --axis) {
            at += rest % c.out[axis] * c.y_layout.space[axis];
            rest /= c.out[axis];
        }
        at += rest % c.channels_out * c.y_layout.channel + rest / c.channels_out * c.y_layout.image;
        memset(static_cast<char*>(c.y) + at * static_cast<int64_t>(bytes), garbage, bytes);
    }
}

void require_success(CUresult result) {
    require(result == CUDA_SUCCESS, CUDNN_STATUS_EXECUTION_FAILED, "CUDA error " + std::to_string(result));
}

}  // namespace

cudnnStatus_t cudnnGetConvolutionNdForwardOutputDim(cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t x,
                                                    cudnnFilterDescriptor_t w, int count, int* dims) {
    return cudnn_call("cudnnGetConvolutionNdForwardOutputDim", false, [&] {
        require(c && x && w && dims, CUDNN_STATUS_BAD_PARAM, "null pointer");
        const std::vector<int> result = output_dims(*c, *x, *w);
        require(static_cast<size_t>(count) == result.size(), CUDNN_STATUS_BAD_PARAM, "wrong number of dimensions");
        std::copy(result.begin(), result.end(), dims);
    });
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                     cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c,
                                                     cudnnTensorDescriptor_t y, int requested, int* returned,
                                                     cudnnConvolutionFwdAlgoPerf_t* results) {
    return cudnn_call("cudnnGetConvolutionForwardAlgorithm_v7", true, [&] {
        require(handle != nullptr, CUDNN_STATUS_BAD_PARAM, "null handle");
        hand_over(ranking(Problem(x, w, c, y), SIZE_MAX), requested, returned, results);
    });
}

cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                     const void* x_data, cudnnFilterDescriptor_t w,
                                                     const void* w_data, cudnnConvolutionDescriptor_t c,
                                                     cudnnTensorDescriptor_t y, void* y_data, int requested,
                                                     int* returned, cudnnConvolutionFwdAlgoPerf_t* results,
                                                     void* workspace, size_t workspace_bytes) {
    return cudnn_call("cudnnFindConvolutionForwardAlgorithmEx", true, [&] {
        require(handle != nullptr, CUDNN_STATUS_BAD_PARAM, "null handle");
        const Problem problem(x, w, c, y);
        check_data(problem, x_data, w_data, y_data, workspace, workspace_bytes);
        // The real one runs and measures every algorithm, so it waits for the device and leaves its results behind.
        require_success(synchronize(find_stream(handle->stream)));
        const float one = 1;
        const float zero = 0;
        overwrite(convolution(problem, &one, &zero, x_data, w_data, y_data));
        if (workspace_bytes > 0) memset(workspace, garbage, workspace_bytes);
        hand_over(ranking(problem, workspace_bytes), requested, returned, results);
    });
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                      cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c,
                                                      cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algorithm,
                                                      size_t* bytes) {
    return cudnn_call("cudnnGetConvolutionForwardWorkspaceSize", true, [&] {
        require(handle != nullptr && bytes != nullptr, CUDNN_STATUS_BAD_PARAM, "null pointer");
        const Problem problem(x, w, c, y);
        require(supported(algorithm), CUDNN_STATUS_NOT_SUPPORTED, "algorithm " + std::to_string(algorithm));
        *bytes = problem.workspace(algorithm);
    });
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha, cudnnTensorDescriptor_t x,
                                      const void* x_data, cudnnFilterDescriptor_t w, const void* w_data,
                                      cudnnConvolutionDescriptor_t c, cudnnConvolutionFwdAlgo_t algorithm,
                                      void* workspace, size_t workspace_bytes, const void* beta,
                                      cudnnTensorDescriptor_t y, void* y_data) {
    return cudnn_call("cudnnConvolutionForward", true, [&] {
        require(handle && alpha && beta, CUDNN_STATUS_BAD_PARAM, "null pointer");
        const Problem problem(x, w, c, y);
        require(supported(algorithm), CUDNN_STATUS_NOT_SUPPORTED, "algorithm " + std::to_string(algorithm));
        const size_t needed = problem.workspace(algorithm);
        require(workspace_bytes >= needed, CUDNN_STATUS_BAD_PARAM,
                "the workspace needs " + std::to_string(needed) + " bytes, has " + std::to_string(workspace_bytes));
        check_data(problem, x_data, w_data, y_data, workspace, workspace_bytes);
        log_detail(text(problem.x.dims) + " -> " + text(problem.y.dims));
        const Convolution task = convolution(problem, alpha, beta, x_data, w_data, y_data);
        require_success(submit(handle->stream, [=] {
            const CUresult counted = count_launch();
            if (counted != CUDA_SUCCESS) return counted;
            if (workspace_bytes > 0) memset(workspace, garbage, workspace_bytes);
            convolve(task);
            if (settings().check_guards) check_guards("cudnnConvolutionForward");
            return CUDA_SUCCESS;
        }));
    });
}
