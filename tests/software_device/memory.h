// The device's memory and pinned memory of the host. Each allocation stands between guard bytes and is filled with
// 0xFF (NaN); a broken guard, a second free or the free of an unknown pointer ends the process with status 99.
#pragma once

#include <cuda.h>

#include <cstddef>

namespace software_device {

CUresult allocate(size_t bytes, CUdeviceptr* address);

// From here on new calls must not name the allocation; work that is already queued still may.
void begin_release(CUdeviceptr address);
void finish_release(CUdeviceptr address);

// Whether the bytes lie in one live allocation of the device.
bool on_device(CUdeviceptr address, size_t bytes);
inline bool on_device(const void* address, size_t bytes) {
    return on_device(reinterpret_cast<CUdeviceptr>(address), bytes);
}

size_t total_memory();
size_t free_memory();

CUresult allocate_pinned(size_t bytes, void** address);
void release_pinned(void* address);
CUresult register_pinned(void* address, size_t bytes);
CUresult unregister_pinned(void* address);
bool is_pinned(const void* address, size_t bytes);

// Ends the process when a guard is broken; `when` says after what.
void check_guards(const char* when);

}  // namespace software_device
