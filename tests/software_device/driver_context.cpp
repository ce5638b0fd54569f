// The driver's calls about the device and its context: there is one device with one context, the primary one.
#include <cuda.h>

#include <cstring>
#include <map>

#include "calls.h"
#include "faults.h"
#include "memory.h"
#include "streams.h"

using namespace software_device;

namespace {

// A context is only a name here.
const auto the_context = reinterpret_cast<CUcontext>(uintptr_t{0x50f7de71ce});
int retained = 0;

CUresult known(CUdevice device) { return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }

// A small chip of compute capability 8.6; what is not listed is 0.
const std::map<int, int>& attributes() {
    static const auto& table = *new std::map<int, int>{
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 * 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 99 * 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 100 * 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 1536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 8},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 64},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 4 << 20},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
    };
    return table;
}

int attribute(CUdevice_attribute which) {
    if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) return settings().capability / 10;
    if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) return settings().capability % 10;
    const auto found = attributes().find(which);
    return found == attributes().end() ? 0 : found->second;
}

CUresult copy_uuid(CUuuid* uuid) {
    memcpy(uuid->bytes, "software-device!", sizeof uuid->bytes);
    return CUDA_SUCCESS;
}

}  // namespace

CUresult CUDAAPI cuInit(unsigned flags) {
    return driver_call(Needs::nothing, "cuInit", [&] {
        if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
        if (settings().devices == 0) return CUDA_ERROR_NO_DEVICE;
        set_initialised();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDriverGetVersion(int* version) {
    return driver_call(Needs::nothing, "cuDriverGetVersion", [&] {
        *version = settings().driver;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
    return driver_call(Needs::init, "cuDeviceGetCount", [&] {
        *count = settings().devices;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
    return driver_call(Needs::init, "cuDeviceGet", [&] {
        *device = ordinal;
        return known(ordinal);
    });
}

CUresult CUDAAPI cuDeviceGetName(char* name, int length, CUdevice device) {
    return driver_call(Needs::init, "cuDeviceGetName", [&] {
        if (length < 1) return CUDA_ERROR_INVALID_VALUE;
        strncpy(name, settings().name.c_str(), static_cast<size_t>(length));
        name[length - 1] = '\0';
        return known(device);
    });
}

CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
    return driver_call(Needs::init, "cuDeviceGetUuid_v2",
                       [&] { return known(device) == CUDA_SUCCESS ? copy_uuid(uuid) : known(device); });
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

CUresult CUDAAPI cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
    return driver_call(Needs::init, "cuDeviceGetPCIBusId", [&] {
        const char id[] = "0000:00:00.0";
        if (length < static_cast<int>(sizeof id)) return CUDA_ERROR_INVALID_VALUE;
        memcpy(text, id, sizeof id);
        return known(device);
    });
}

CUresult CUDAAPI cuDeviceTotalMem(size_t* bytes, CUdevice device) {
    return driver_call(Needs::init, "cuDeviceTotalMem_v2", [&] {
        *bytes = total_memory();
        return known(device);
    });
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
    return driver_call(Needs::init, "cuDeviceGetAttribute", [&] {
        *value = attribute(which);
        return known(device);
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    return driver_call(Needs::init, "cuDevicePrimaryCtxRetain", [&] {
        if (known(device) != CUDA_SUCCESS) return known(device);
        if (settings().busy) return CUDA_ERROR_DEVICE_UNAVAILABLE;
        retained += 1;
        *context = the_context;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
    return driver_call(Needs::init, "cuDevicePrimaryCtxRelease_v2", [&] {
        if (known(device) != CUDA_SUCCESS) return known(device);
        if (retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
        retained -= 1;
        if (retained > 0) return CUDA_SUCCESS;
        synchronize_all();
        check_guards("the release of the context");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    return driver_call(Needs::init, "cuDevicePrimaryCtxGetState", [&] {
        *flags = 0;
        *active = retained > 0;
        return known(device);
    });
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext* context) {
    return driver_call(Needs::init, "cuCtxGetCurrent", [&] {
        *context = current_context();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
    return driver_call(Needs::init, "cuCtxSetCurrent", [&] {
        if (context != nullptr && (context != the_context || retained == 0)) return CUDA_ERROR_INVALID_CONTEXT;
        set_current_context(context);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
    return driver_call(Needs::context, "cuCtxGetDevice", [&] {
        *device = 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxSetFlags(unsigned) {
    return driver_call(Needs::context, "cuCtxSetFlags", [&] { return CUDA_SUCCESS; });
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return driver_call(Needs::context, "cuCtxGetStreamPriorityRange", [&] {
        *least = 0;
        *greatest = -5;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxSynchronize() {
    return driver_call(Needs::context, "cuCtxSynchronize", [&] {
        const CUresult allowed = refuse_in_capture();
        return allowed == CUDA_SUCCESS ? synchronize_all() : allowed;
    });
}
