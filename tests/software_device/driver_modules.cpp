// The driver's calls about modules, functions and launches. A module's image is looked at only to tell machine code
// from PTX; the kernels are those that were compiled into this library.
#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "calls.h"
#include "faults.h"
#include "launches.h"
#include "streams.h"

using namespace software_device;

namespace {

constexpr int largest_opt_in = 99 * 1024;
constexpr int largest_default = 48 * 1024;

// For a PTX module its text, otherwise empty.
std::map<CUmodule, std::string>& modules() {
    static auto& table = *new std::map<CUmodule, std::string>;
    return table;
}

bool is_machine_code(const void* image) {
    const unsigned char beginnings[][4] = {
        {0x7F, 'E', 'L', 'F'}, {0x50, 0xED, 0x55, 0xBA}, {0xB1, 0x43, 0x62, 0x46}};
    return std::any_of(std::begin(beginnings), std::end(beginnings),
                       [&](const unsigned char(&b)[4]) { return memcmp(image, b, sizeof b) == 0; });
}

CUresult load(CUmodule* module, const void* image) {
    static uintptr_t next = 0x1000;
    if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const bool binary = is_machine_code(image);
    log_detail(binary ? "machine code" : "PTX");
    if (binary && settings().no_binary) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (!binary && settings().no_ptx) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    *module = reinterpret_cast<CUmodule>(next += 16);
    modules()[*module] = binary ? "" : static_cast<const char*>(image);
    return CUDA_SUCCESS;
}

// PTX text tells which kernels it has; machine code is believed.
bool has_entry(const std::string& ptx, const std::string& name) {
    if (ptx.find(".entry") == std::string::npos) return true;
    return ptx.find(".entry " + name + "(") != std::string::npos;
}

Kernel* find(CUfunction function) {
    for (auto& [name, kernel] : kernels()) {
        if (reinterpret_cast<CUfunction>(&kernel) == function) return &kernel;
    }
    return nullptr;
}

bool within(uint3 size, uint3 limit) {
    return size.x >= 1 && size.y >= 1 && size.z >= 1 && size.x <= limit.x && size.y <= limit.y && size.z <= limit.z;
}

CUresult check(const Grid& grid, const Kernel& kernel) {
    const uint64_t threads = uint64_t{grid.block_size.x} * grid.block_size.y * grid.block_size.z;
    if (!within(grid.grid_size, {2147483647, 65535, 65535})) return CUDA_ERROR_INVALID_VALUE;
    if (!within(grid.block_size, {1024, 1024, 64}) || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    const auto most = static_cast<size_t>(kernel.max_dynamic_shared);
    return grid.dynamic_shared_bytes <= most ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult launch(Grid grid, CUfunction function, CUstream stream, void** arguments) {
    const Kernel* kernel = find(function);
    if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    log_detail(kernel->name + " " + std::to_string(grid.blocks()) + " blocks");
    const CUresult allowed = check(grid, *kernel);
    if (allowed != CUDA_SUCCESS) return allowed;
    grid.kernel = kernel->name;
    grid.thread = kernel->bind(arguments);
    return submit(stream, [grid] {
        const CUresult counted = count_launch();
        return counted == CUDA_SUCCESS ? run_grid(grid) : counted;
    });
}

CUresult attribute(int* value, CUfunction_attribute which, const Kernel& kernel) {
    *value = 0;
    if (which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) *value = 1024;
    if (which == CU_FUNC_ATTRIBUTE_NUM_REGS) *value = 32;
    if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) *value = kernel.max_dynamic_shared;
    if (which == CU_FUNC_ATTRIBUTE_PTX_VERSION) *value = 75;
    if (which == CU_FUNC_ATTRIBUTE_BINARY_VERSION) *value = settings().capability;
    return CUDA_SUCCESS;
}

CUresult set_attribute(Kernel& kernel, CUfunction_attribute which, int value) {
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || value > largest_opt_in) return CUDA_ERROR_INVALID_VALUE;
    kernel.max_dynamic_shared = std::max(value, largest_default);
    return CUDA_SUCCESS;
}

CUresult occupancy(int* blocks, int block_size, size_t dynamic_shared) {
    if (block_size < 1 || block_size > 1024) return CUDA_ERROR_INVALID_VALUE;
    const auto by_shared = static_cast<int>(100 * 1024 / (dynamic_shared + 1024));
    *blocks = std::min({1536 / block_size, 16, by_shared});
    return CUDA_SUCCESS;
}

template <class Body>
CUresult function_call(const char* name, CUfunction function, Body body) {
    return driver_call(Needs::context, name, [&] {
        Kernel* kernel = find(function);
        return kernel ? body(*kernel) : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace

CUresult CUDAAPI cuModuleLoadData(CUmodule* module, const void* image) {
    return driver_call(Needs::context, "cuModuleLoadData", [&] { return load(module, image); });
}

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return driver_call(Needs::context, "cuModuleLoadDataEx", [&] { return load(module, image); });
}

CUresult CUDAAPI cuModuleUnload(CUmodule module) {
    return driver_call(Needs::context, "cuModuleUnload",
                       [&] { return modules().erase(module) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    return driver_call(Needs::context, "cuModuleGetFunction", [&] {
        log_detail(name);
        const auto loaded = modules().find(module);
        if (loaded == modules().end()) return CUDA_ERROR_INVALID_HANDLE;
        const auto kernel = kernels().find(name);
        if (kernel == kernels().end() || !has_entry(loaded->second, name)) return CUDA_ERROR_NOT_FOUND;
        *function = reinterpret_cast<CUfunction>(&kernel->second);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
    return function_call("cuFuncGetAttribute", function,
                         [&](const Kernel& kernel) { return attribute(value, which, kernel); });
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    return function_call("cuFuncSetAttribute", function,
                         [&](Kernel& kernel) { return set_attribute(kernel, which, value); });
}

CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
    return function_call("cuFuncSetCacheConfig", function, [](const Kernel&) { return CUDA_SUCCESS; });
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared, CUstream stream,
                                void** arguments, void** extra) {
    return driver_call(Needs::context, "cuLaunchKernel", [&] {
        if (extra != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
        const Grid grid{"", {}, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared};
        return launch(grid, function, stream, arguments);
    });
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size,
                                                             size_t dynamic_shared) {
    return function_call("cuOccupancyMaxActiveBlocksPerMultiprocessor", function,
                         [&](const Kernel&) { return occupancy(blocks, block_size, dynamic_shared); });
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int block_size,
                                                                      size_t dynamic_shared, unsigned) {
    return function_call("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", function,
                         [&](const Kernel&) { return occupancy(blocks, block_size, dynamic_shared); });
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int* blocks, int* block_size, CUfunction function,
                                                  CUoccupancyB2DSize, size_t, int) {
    return function_call("cuOccupancyMaxPotentialBlockSize", function, [&](const Kernel&) {
        *blocks = 16;
        *block_size = 768;
        return CUDA_SUCCESS;
    });
}
