// The driver's calls about memory: allocations of the device and of pinned memory, fills and copies.
#include <cuda.h>

#include <cstring>
#include <string>
#include <vector>

#include "calls.h"
#include "memory.h"
#include "streams.h"

using namespace software_device;

namespace {

void* host(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

Work copy_work(void* to, const void* from, size_t bytes) {
    return [=] {
        memmove(to, from, bytes);
        return CUDA_SUCCESS;
    };
}

bool capturing(CUstream handle) {
    const StreamPointer stream = find_stream(handle);
    return stream && stream->capture;
}

CUresult submit_and_wait(CUstream stream, Work work) {
    const CUresult result = submit(stream, std::move(work));
    return result == CUDA_SUCCESS ? synchronize(find_stream(stream)) : result;
}

CUresult check(CUdeviceptr address, size_t bytes) {
    log_detail(std::to_string(bytes) + " bytes");
    return on_device(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult to_device(CUstream stream, CUdeviceptr to, const void* from, size_t bytes) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (from == nullptr || check(to, bytes) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(from, bytes) || capturing(stream)) return submit(stream, copy_work(host(to), from, bytes));
    // Pageable memory is staged before the call returns.
    const auto* begin = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
    return submit(stream, [=] {
        memcpy(host(to), staged->data(), bytes);
        return CUDA_SUCCESS;
    });
}

CUresult to_host(CUstream stream, void* to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (to == nullptr || check(from, bytes) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
    const bool later = is_pinned(to, bytes) || capturing(stream);
    const Work work = copy_work(to, host(from), bytes);
    return later ? submit(stream, work) : submit_and_wait(stream, work);
}

CUresult on_the_device(CUstream stream, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (check(to, bytes) != CUDA_SUCCESS || !on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, copy_work(host(to), host(from), bytes));
}

CUresult fill(CUstream stream, CUdeviceptr address, unsigned value, size_t count, size_t width) {
    if (count == 0) return CUDA_SUCCESS;
    if (address % width != 0 || check(address, count * width) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] {
        char* to = static_cast<char*>(host(address));
        for (size_t i = 0; i < count; ++i) memcpy(to + i * width, &value, width);
        return CUDA_SUCCESS;
    });
}

// A blocking call: on the legacy stream, and not while a capture is under way.
template <class Body>
CUresult blocking_call(const char* name, Body body) {
    return driver_call(Needs::context, name, [&] {
        const CUresult allowed = refuse_in_capture();
        if (allowed != CUDA_SUCCESS) return allowed;
        const CUresult result = body();
        return result == CUDA_SUCCESS ? synchronize(find_stream(nullptr)) : result;
    });
}

// When memory seems to be short, frees that are still queued run first, as in a device's memory pool.
CUresult allocate_after_frees(size_t bytes, CUdeviceptr* address) {
    log_detail(std::to_string(bytes) + " bytes");
    if (bytes > free_memory()) synchronize_all();
    if (sticky_error() != CUDA_SUCCESS) return sticky_error();
    return allocate(bytes, address);
}

}  // namespace

CUresult CUDAAPI cuMemGetInfo(size_t* free, size_t* total) {
    return driver_call(Needs::context, "cuMemGetInfo_v2", [&] {
        *free = free_memory();
        *total = total_memory();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t bytes) {
    return driver_call(Needs::context, "cuMemAlloc_v2", [&] {
        const CUresult allowed = refuse_in_capture();
        return allowed == CUDA_SUCCESS ? allocate_after_frees(bytes, address) : allowed;
    });
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    return driver_call(Needs::context, "cuMemFree_v2", [&] {
        if (address == 0) return CUDA_SUCCESS;
        const CUresult allowed = refuse_in_capture();
        if (allowed != CUDA_SUCCESS) return allowed;
        // The free of a plain allocation waits for the whole device.
        begin_release(address);
        const CUresult result = synchronize_all();
        finish_release(address);
        return result;
    });
}

// A device makes nodes of its graph from these two during a capture; this one refuses them, since a program that
// replays a graph should hold its memory for as long as the graph.
CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream handle) {
    return driver_call(Needs::context, "cuMemAllocAsync", [&] {
        const StreamPointer stream = find_stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        return stream->capture ? spoil_capture(*stream) : allocate_after_frees(bytes, address);
    });
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    return driver_call(Needs::context, "cuMemFreeAsync", [&] {
        const StreamPointer stream = find_stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (stream->capture) return spoil_capture(*stream);
        if (address == 0) return CUDA_ERROR_INVALID_VALUE;
        begin_release(address);
        return submit(stream, [address] {
            finish_release(address);
            return CUDA_SUCCESS;
        });
    });
}

CUresult CUDAAPI cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return driver_call(Needs::context, "cuMemHostAlloc", [&] { return allocate_pinned(bytes, address); });
}

CUresult CUDAAPI cuMemAllocHost(void** address, size_t bytes) {
    return driver_call(Needs::context, "cuMemAllocHost_v2", [&] { return allocate_pinned(bytes, address); });
}

CUresult CUDAAPI cuMemFreeHost(void* address) {
    return driver_call(Needs::context, "cuMemFreeHost", [&] {
        synchronize_all();
        release_pinned(address);
        return sticky_error();
    });
}

CUresult CUDAAPI cuMemHostRegister(void* address, size_t bytes, unsigned) {
    return driver_call(Needs::context, "cuMemHostRegister_v2", [&] { return register_pinned(address, bytes); });
}

CUresult CUDAAPI cuMemHostUnregister(void* address) {
    return driver_call(Needs::context, "cuMemHostUnregister", [&] {
        synchronize_all();
        return unregister_pinned(address);
    });
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return driver_call(Needs::context, "cuMemcpyHtoDAsync_v2", [&] { return to_device(stream, to, from, bytes); });
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return driver_call(Needs::context, "cuMemcpyDtoHAsync_v2", [&] { return to_host(stream, to, from, bytes); });
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return driver_call(Needs::context, "cuMemcpyDtoDAsync_v2",
                       [&] { return on_the_device(stream, to, from, bytes); });
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
    return blocking_call("cuMemcpyHtoD_v2", [&] { return to_device(nullptr, to, from, bytes); });
}

CUresult CUDAAPI cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
    return blocking_call("cuMemcpyDtoH_v2", [&] { return to_host(nullptr, to, from, bytes); });
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return blocking_call("cuMemcpyDtoD_v2", [&] { return on_the_device(nullptr, to, from, bytes); });
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) {
    return driver_call(Needs::context, "cuMemsetD8Async", [&] { return fill(stream, address, value, count, 1); });
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count, CUstream stream) {
    return driver_call(Needs::context, "cuMemsetD16Async", [&] { return fill(stream, address, value, count, 2); });
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream) {
    return driver_call(Needs::context, "cuMemsetD32Async", [&] { return fill(stream, address, value, count, 4); });
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr address, unsigned char value, size_t count) {
    return blocking_call("cuMemsetD8_v2", [&] { return fill(nullptr, address, value, count, 1); });
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr address, unsigned value, size_t count) {
    return blocking_call("cuMemsetD32_v2", [&] { return fill(nullptr, address, value, count, 4); });
}
