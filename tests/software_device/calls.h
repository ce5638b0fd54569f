// How every driver call begins and ends: one lock for the whole device, the readiness that the call needs, the sticky
// error of a broken device, and the log.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <mutex>
#include <string>

namespace software_device {

enum class Needs { nothing, init, context };

// The device's one lock. Recursive, because work that is run under it may call back.
std::recursive_mutex& device_lock();

// What a call that needs `needs` returns instead of doing its work; CUDA_SUCCESS when it may go on.
CUresult readiness(Needs needs);

// The error that every later call gives, as after a fault on a real device.
CUresult sticky_error();
void break_device(CUresult error);

// Counts a kernel's or a convolution's start; not CUDA_SUCCESS once `lost-at` is reached.
CUresult count_launch();

void set_initialised();
void set_current_context(CUcontext context);
CUcontext current_context();

// Adds words to the log line of the call that is under way.
void log_detail(const std::string& detail);
void log_result(const char* name, int result);

template <class Body>
CUresult driver_call(Needs needs, const char* name, Body body) {
    const std::lock_guard<std::recursive_mutex> hold(device_lock());
    CUresult result = readiness(needs);
    if (result == CUDA_SUCCESS) result = body();
    log_result(name, result);
    return result;
}

}  // namespace software_device
