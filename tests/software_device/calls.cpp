// The state shared by all calls; see calls.h.
#include "calls.h"

#include "faults.h"
#include "this_thread.h"

namespace software_device {

namespace {

bool initialised = false;
CUresult broken = CUDA_SUCCESS;
uint64_t launches = 0;

std::string& detail() {
    static std::string& text = *new std::string;
    return text;
}

}  // namespace

std::recursive_mutex& device_lock() {
    static std::recursive_mutex& lock = *new std::recursive_mutex;
    return lock;
}

CUresult readiness(Needs needs) {
    if (needs == Needs::nothing) return CUDA_SUCCESS;
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (needs == Needs::init) return CUDA_SUCCESS;
    if (broken != CUDA_SUCCESS) return broken;
    return current_context() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult sticky_error() { return broken; }

void break_device(CUresult error) {
    if (broken == CUDA_SUCCESS) broken = error;
}

CUresult count_launch() {
    launches += 1;
    if (settings().lost_at != 0 && launches >= settings().lost_at) break_device(CUDA_ERROR_ILLEGAL_ADDRESS);
    return broken;
}

void set_initialised() { initialised = true; }

void set_current_context(CUcontext context) { this_thread().notes().context = context; }

CUcontext current_context() { return this_thread().notes().context; }

void log_detail(const std::string& words) { detail() += " " + words; }

void log_result(const char* name, int result) {
    if (settings().log) complain("%s%s -> %d", name, detail().c_str(), result);
    detail().clear();
}

}  // namespace software_device
