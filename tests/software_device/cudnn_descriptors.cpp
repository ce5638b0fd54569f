// cuDNN's handles, errors and descriptors. Descriptors are copied when a convolution is queued, so a program may
// change or destroy them afterwards, as with the real one.
#include <cstring>
#include <set>

#include "cudnn_state.h"
#include "faults.h"
#include "this_thread.h"

using namespace software_device;

namespace software_device {

void remember_cudnn_error(const CudnnError& error) {
    this_thread().notes().cudnn_message = error.message;
    if (settings().log) complain("%s", error.message.c_str());
}

}  // namespace software_device

namespace {

// Pointers that are live objects of type T.
template <class T>
std::set<T*>& alive() {
    static auto& table = *new std::set<T*>;
    return table;
}

template <class T>
T& checked(T* object, const char* what) {
    require(alive<T>().count(object) == 1, CUDNN_STATUS_BAD_PARAM, std::string("no such ") + what);
    return *object;
}

template <class T>
cudnnStatus_t create(const char* name, T** result) {
    return cudnn_call(name, false, [&] {
        require(result != nullptr, CUDNN_STATUS_BAD_PARAM, "null pointer for the result");
        *result = new T{};
        alive<T>().insert(*result);
    });
}

template <class T>
cudnnStatus_t destroy(const char* name, T* object) {
    return cudnn_call(name, false, [&] {
        checked(object, "object to destroy");
        alive<T>().erase(object);
        delete object;
    });
}

void check_type(cudnnDataType_t type) {
    const bool known = type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_HALF;
    require(known, CUDNN_STATUS_NOT_SUPPORTED, "data type " + std::to_string(type));
}

void check_positive(const std::vector<int>& values, const char* what) {
    for (const int value : values) {
        require(value > 0, CUDNN_STATUS_BAD_PARAM, std::string(what) + " " + std::to_string(value));
    }
}

void check_size(const std::vector<int>& dims) {
    double elements = 1;
    for (const int dim : dims) elements *= dim;
    require(elements < 2147483648.0, CUDNN_STATUS_NOT_SUPPORTED, "2^31 elements or more");
}

void set_tensor(cudnnTensorDescriptor_t descriptor, const cudnnTensorStruct& tensor) {
    checked(descriptor, "tensor descriptor");
    const size_t count = tensor.dims.size();
    require(count >= 4 && count <= 8, CUDNN_STATUS_NOT_SUPPORTED, std::to_string(count) + " dimensions");
    check_type(tensor.type);
    check_positive(tensor.dims, "dimension");
    check_positive(tensor.strides, "stride");
    check_size(tensor.dims);
    *descriptor = tensor;
}

void set_filter(cudnnFilterDescriptor_t descriptor, const cudnnFilterStruct& filter) {
    checked(descriptor, "filter descriptor");
    const size_t count = filter.dims.size();
    require(count >= 3 && count <= 8, CUDNN_STATUS_NOT_SUPPORTED, std::to_string(count) + " dimensions");
    const bool known = filter.format == CUDNN_TENSOR_NCHW || filter.format == CUDNN_TENSOR_NHWC;
    require(known, CUDNN_STATUS_NOT_SUPPORTED, "filter format " + std::to_string(filter.format));
    check_type(filter.type);
    check_positive(filter.dims, "dimension");
    *descriptor = filter;
}

// The mathematics type and the number of groups have setters of their own and stay.
void set_convolution(cudnnConvolutionDescriptor_t descriptor, cudnnConvolutionStruct convolution) {
    checked(descriptor, "convolution descriptor");
    for (const int pad : convolution.pads) {
        require(pad >= 0, CUDNN_STATUS_BAD_PARAM, "padding " + std::to_string(pad));
    }
    check_positive(convolution.strides, "stride");
    check_positive(convolution.dilations, "dilation");
    const bool correlation = convolution.mode == CUDNN_CROSS_CORRELATION;
    require(correlation, CUDNN_STATUS_NOT_SUPPORTED, "a convolution that is no cross-correlation");
    require(convolution.compute == CUDNN_DATA_FLOAT, CUDNN_STATUS_NOT_SUPPORTED, "sums in other than f32");
    convolution.math = descriptor->math;
    convolution.groups = descriptor->groups;
    *descriptor = convolution;
}

std::vector<int> list(const int* values, int count) {
    require(values != nullptr && count > 0, CUDNN_STATUS_BAD_PARAM, "an empty list");
    return {values, values + count};
}

}  // namespace

size_t cudnnGetVersion() { return settings().cudnn; }

size_t cudnnGetCudartVersion() { return 12040; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
    switch (status) {
        case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
        case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
        case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
        case CUDNN_STATUS_INTERNAL_ERROR: return "CUDNN_STATUS_INTERNAL_ERROR";
        case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    }
    return "CUDNN_UNKNOWN_STATUS";
}

void cudnnGetLastErrorString(char* message, size_t size) {
    if (size == 0) return;
    const std::string& last = this_thread().notes().cudnn_message;
    const size_t length = std::min(size - 1, last.size());
    memcpy(message, last.data(), length);
    message[length] = '\0';
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
    const std::lock_guard<std::recursive_mutex> hold(device_lock());
    if (readiness(Needs::context) != CUDA_SUCCESS) return CUDNN_STATUS_NOT_INITIALIZED;
    return create("cudnnCreate", handle);
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return destroy("cudnnDestroy", handle); }

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, CUstream stream) {
    return cudnn_call("cudnnSetStream", true, [&] { checked(handle, "handle").stream = stream; });
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, CUstream* stream) {
    return cudnn_call("cudnnGetStream", false, [&] { *stream = checked(handle, "handle").stream; });
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* descriptor) {
    return create("cudnnCreateTensorDescriptor", descriptor);
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t descriptor) {
    return destroy("cudnnDestroyTensorDescriptor", descriptor);
}

cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t descriptor, cudnnDataType_t type, int count,
                                         const int* dims, const int* strides) {
    return cudnn_call("cudnnSetTensorNdDescriptor", false,
                      [&] { set_tensor(descriptor, {type, list(dims, count), list(strides, count)}); });
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t descriptor, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
    return cudnn_call("cudnnSetTensor4dDescriptor", false, [&] {
        const bool last = format == CUDNN_TENSOR_NHWC;
        const std::vector<int> strides =
            last ? std::vector<int>{c * h * w, 1, w * c, c} : std::vector<int>{c * h * w, h * w, w, 1};
        set_tensor(descriptor, {type, {n, c, h, w}, strides});
    });
}

cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t descriptor, cudnnDataType_t type, int n, int c,
                                           int h, int w, int n_stride, int c_stride, int h_stride, int w_stride) {
    return cudnn_call("cudnnSetTensor4dDescriptorEx", false, [&] {
        set_tensor(descriptor, {type, {n, c, h, w}, {n_stride, c_stride, h_stride, w_stride}});
    });
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* descriptor) {
    return create("cudnnCreateFilterDescriptor", descriptor);
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t descriptor) {
    return destroy("cudnnDestroyFilterDescriptor", descriptor);
}

cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int count, const int* dims) {
    return cudnn_call("cudnnSetFilterNdDescriptor", false,
                      [&] { set_filter(descriptor, {type, format, list(dims, count)}); });
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
    return cudnn_call("cudnnSetFilter4dDescriptor", false,
                      [&] { set_filter(descriptor, {type, format, {k, c, h, w}}); });
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* descriptor) {
    return create("cudnnCreateConvolutionDescriptor", descriptor);
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t descriptor) {
    return destroy("cudnnDestroyConvolutionDescriptor", descriptor);
}

cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t descriptor, int count, const int* pads,
                                              const int* strides, const int* dilations, cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute) {
    return cudnn_call("cudnnSetConvolutionNdDescriptor", false, [&] {
        set_convolution(descriptor,
                        {list(pads, count), list(strides, count), list(dilations, count), mode, compute});
    });
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t descriptor, int pad_h, int pad_w,
                                              int stride_h, int stride_w, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
    return cudnn_call("cudnnSetConvolution2dDescriptor", false, [&] {
        set_convolution(descriptor,
                        {{pad_h, pad_w}, {stride_h, stride_w}, {dilation_h, dilation_w}, mode, compute});
    });
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t descriptor, cudnnMathType_t math) {
    return cudnn_call("cudnnSetConvolutionMathType", false,
                      [&] { checked(descriptor, "convolution descriptor").math = math; });
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t descriptor, int groups) {
    return cudnn_call("cudnnSetConvolutionGroupCount", false, [&] {
        require(groups > 0, CUDNN_STATUS_BAD_PARAM, "group count " + std::to_string(groups));
        checked(descriptor, "convolution descriptor").groups = groups;
    });
}
