// What stands behind cuDNN's handles and descriptors, and how its calls begin and end.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "calls.h"
#include "cudnn_api.h"

struct cudnnContext {
    CUstream stream = nullptr;
};

struct cudnnTensorStruct {
    cudnnDataType_t type;
    std::vector<int> dims;
    std::vector<int> strides;
};

// Dimensions K, C, then space; with NHWC the memory is K, space, C.
struct cudnnFilterStruct {
    cudnnDataType_t type;
    cudnnTensorFormat_t format;
    std::vector<int> dims;
};

struct cudnnConvolutionStruct {
    std::vector<int> pads;
    std::vector<int> strides;
    std::vector<int> dilations;
    cudnnConvolutionMode_t mode;
    cudnnDataType_t compute;
    cudnnMathType_t math = CUDNN_DEFAULT_MATH;
    int groups = 1;
};

namespace software_device {

// A call stops with one of these; its message is what cudnnGetLastErrorString gives.
struct CudnnError {
    cudnnStatus_t status;
    std::string message;
};

void remember_cudnn_error(const CudnnError& error);

inline void require(bool condition, cudnnStatus_t otherwise, const std::string& message) {
    if (!condition) throw CudnnError{otherwise, message};
}

// Runs the body under the device's lock; the statuses of a broken device come from `needs_device`.
template <class Body>
cudnnStatus_t cudnn_call(const char* name, bool needs_device, Body body) {
    const std::lock_guard<std::recursive_mutex> hold(device_lock());
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    try {
        if (needs_device) {
            require(sticky_error() == CUDA_SUCCESS, CUDNN_STATUS_EXECUTION_FAILED, "the device is broken");
            require(readiness(Needs::context) == CUDA_SUCCESS, CUDNN_STATUS_NOT_INITIALIZED, "no current context");
        }
        body();
    } catch (const CudnnError& error) {
        remember_cudnn_error({error.status, std::string(name) + ": " + error.message});
        status = error.status;
    }
    log_result(name, status);
    return status;
}

}  // namespace software_device
