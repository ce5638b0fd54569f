// Everything the device keeps for each thread of the host, in one variable. Static shared memory of kernels is
// thread-local too, and is filled with a pattern before each block of threads: keeping our own part in one place lets
// that filling spare it (shared_memory.cpp).
#pragma once

#include <cuda.h>
#include <vector_types.h>

#include <memory>
#include <string>

namespace software_device {

class BlockRunner;
struct Stream;

// What a host thread remembers between calls; on the heap, never freed before the thread's end.
struct Notes {
    CUcontext context = nullptr;
    std::shared_ptr<Stream> per_thread_stream;
    std::string cudnn_message;
};

// Plain data: no constructor at a thread's start, and it may be copied byte by byte.
struct ThisThread {
    uint3 thread_index;
    uint3 block_index;
    uint3 block_size;
    uint3 grid_size;
    void* dynamic_shared;
    char* static_shared;
    size_t static_shared_bytes;
    BlockRunner* runner;
    Notes* heap_notes;

    Notes& notes() {
        if (heap_notes == nullptr) heap_notes = new Notes;
        return *heap_notes;
    }
};

extern __thread ThisThread here;

inline ThisThread& this_thread() { return here; }

}  // namespace software_device
