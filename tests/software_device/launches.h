// Kernels by name, and running a grid of blocks on a few host threads.
#pragma once

#include <cuda.h>

#include <map>
#include <string>

#include "block_runner.h"
#include "kernel_calls.h"

namespace software_device {

struct Kernel {
    std::string name;
    Bind bind;
    int max_dynamic_shared = 48 * 1024;
};

std::map<std::string, Kernel>& kernels();

// Runs all blocks of the grid; CUDA_ERROR_LAUNCH_FAILED when a thread of one went wrong, which is also printed.
CUresult run_grid(const Grid& grid);

// Calls `work(begin, end)` on the host threads that the settings allow until 0 to `count` is covered.
void in_parallel(uint64_t count, uint64_t chunk, const std::function<void(uint64_t, uint64_t)>& work);

}  // namespace software_device
