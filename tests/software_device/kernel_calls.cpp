// See kernel_calls.h: passes the calls of a running kernel on to the runner of its block, and keeps the kernels' table.
#include "kernel_calls.h"

#include "block_runner.h"
#include "faults.h"
#include "launches.h"

namespace software_device {

void wait_at_barrier(const char* file, int line) { here.runner->wait_at_barrier({file, line}); }

void sync_warp(uint32_t mask, const char* file, int line) {
    here.runner->exchange({Exchange::sync, mask, 0, 0, 0, {file, line}});
}

uint32_t ballot(uint32_t mask, bool predicate, const char* file, int line) {
    const WarpRequest request{Exchange::ballot, mask, 0, predicate, 0, {file, line}};
    return static_cast<uint32_t>(here.runner->exchange(request));
}

uint64_t exchange_bits(uint32_t mask, uint64_t bits, unsigned source, const char* file, int line) {
    return here.runner->exchange({Exchange::shuffle, mask, source, bits, 0, {file, line}});
}

void trap(const char* file, int line) { here.runner->fail("trapped at " + Place{file, line}.text()); }

unsigned lane() { return here.runner->lane(); }

void* dynamic_shared() { return here.dynamic_shared; }

std::map<std::string, Kernel>& kernels() {
    static auto& table = *new std::map<std::string, Kernel>;
    return table;
}

void announce_kernel(const char* name, Bind bind) {
    if (!kernels().emplace(name, Kernel{name, std::move(bind)}).second) give_up("two kernels are named %s", name);
}

}  // namespace software_device
