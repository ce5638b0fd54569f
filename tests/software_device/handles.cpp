// cuBLAS and cuRAND as far as making a device in candle needs them: handles come and go, nothing computes. Their
// types are spelled plainly here, since a handle is a pointer and a status a number.
#include <cstddef>
#include <memory>
#include <set>

#include "calls.h"
#include "faults.h"

using namespace software_device;

namespace {

constexpr int success = 0;
constexpr int cublas_not_initialized = 1;
constexpr int curand_not_initialized = 101;

using Handle = void*;

std::set<Handle>& handles() {
    static auto& table = *new std::set<Handle>;
    return table;
}

// A call of a library above the driver: locked and logged like one of the driver's.
template <class Body>
int library_call(const char* name, Body body) {
    const std::lock_guard<std::recursive_mutex> hold(device_lock());
    const int result = body();
    log_result(name, result);
    return result;
}

int create(const char* name, Handle* handle, int failure) {
    return library_call(name, [&] {
        if (readiness(Needs::context) != CUDA_SUCCESS) return failure;
        *handle = new char;
        handles().insert(*handle);
        return success;
    });
}

int destroy(const char* name, Handle handle, int failure) {
    return library_call(name, [&] {
        if (handles().erase(handle) == 0) return failure;
        delete static_cast<char*>(handle);
        return success;
    });
}

int accept(const char* name, Handle handle, int failure) {
    return library_call(name, [&] { return handles().count(handle) == 1 ? success : failure; });
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle* handle) { return create("cublasCreate_v2", handle, cublas_not_initialized); }

int cublasDestroy_v2(Handle handle) { return destroy("cublasDestroy_v2", handle, cublas_not_initialized); }

int cublasSetStream_v2(Handle handle, CUstream) {
    return accept("cublasSetStream_v2", handle, cublas_not_initialized);
}

int cublasSetWorkspace_v2(Handle handle, void*, size_t) {
    return accept("cublasSetWorkspace_v2", handle, cublas_not_initialized);
}

int cublasSetMathMode(Handle handle, int) { return accept("cublasSetMathMode", handle, cublas_not_initialized); }

int cublasSetPointerMode_v2(Handle handle, int) {
    return accept("cublasSetPointerMode_v2", handle, cublas_not_initialized);
}

int curandCreateGenerator(Handle* generator, int) {
    return create("curandCreateGenerator", generator, curand_not_initialized);
}

int curandDestroyGenerator(Handle generator) {
    return destroy("curandDestroyGenerator", generator, curand_not_initialized);
}

int curandSetStream(Handle generator, CUstream) {
    return accept("curandSetStream", generator, curand_not_initialized);
}

int curandSetPseudoRandomGeneratorSeed(Handle generator, unsigned long long) {
    return accept("curandSetPseudoRandomGeneratorSeed", generator, curand_not_initialized);
}

int curandSetGeneratorOffset(Handle generator, unsigned long long) {
    return accept("curandSetGeneratorOffset", generator, curand_not_initialized);
}

}  // extern "C"
