// What compiled kernels call and the device implements (kernel_calls.cpp): the exchanges between threads, dynamic
// shared memory, and the table of kernels that the files announce themselves to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

namespace software_device {

void wait_at_barrier(const char* file, int line);
void sync_warp(uint32_t mask, const char* file, int line);
uint32_t ballot(uint32_t mask, bool predicate, const char* file, int line);
uint64_t exchange_bits(uint32_t mask, uint64_t bits, unsigned source, const char* file, int line);
[[noreturn]] void trap(const char* file, int line);
unsigned lane();
void* dynamic_shared();

// Copies the arguments that the pointers point to, as a launch does, and returns the work of one thread.
using Bind = std::function<std::function<void()>(void** arguments)>;

void announce_kernel(const char* name, Bind bind);

template <class... A, size_t... I>
std::function<void()> bind_arguments(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    const std::tuple<std::remove_cv_t<A>...> copies{*static_cast<std::remove_cv_t<A>*>(arguments[I])...};
    return [kernel, copies] { std::apply(kernel, copies); };
}

// One static object for each kernel, at the end of its file.
class Announcement {
public:
    template <class... A>
    Announcement(const char* name, void (*kernel)(A...)) {
        announce_kernel(name, [kernel](void** arguments) {
            return bind_arguments(kernel, arguments, std::index_sequence_for<A...>{});
        });
    }
};

}  // namespace software_device
