// See memory.h. A small part of the freed memory is kept for a while, filled with 0xFF: reading it gives NaN, and a
// write after the free is found when the memory is given up.
#include "memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <new>

#include "calls.h"
#include "faults.h"

namespace software_device {

namespace {

constexpr size_t guard_bytes = 256;
constexpr unsigned char guard_byte = 0xA5;
constexpr unsigned char poison = 0xFF;
constexpr size_t kept_bytes_at_most = size_t{64} << 20;
constexpr std::align_val_t alignment{256};

struct Allocation {
    size_t bytes = 0;
    bool released = false;
};

// What stands in memory: guard, the allocation itself, guard.
class Guarded {
public:
    Guarded(uintptr_t address, size_t bytes) : begin_(reinterpret_cast<unsigned char*>(address)), bytes_(bytes) {}

    static uintptr_t make(size_t bytes) {
        void* whole = ::operator new(bytes + 2 * guard_bytes, alignment, std::nothrow);
        if (whole == nullptr) return 0;
        memset(whole, guard_byte, guard_bytes);
        auto* begin = static_cast<unsigned char*>(whole) + guard_bytes;
        memset(begin, poison, bytes);
        memset(begin + bytes, guard_byte, guard_bytes);
        return reinterpret_cast<uintptr_t>(begin);
    }

    void check(const char* kind, const char* when) const {
        if (!all(begin_ - guard_bytes, guard_byte, guard_bytes)) broken("before", kind, when);
        if (!all(begin_ + bytes_, guard_byte, guard_bytes)) broken("behind", kind, when);
    }

    void poison_all() { memset(begin_, poison, bytes_); }

    void check_untouched() const {
        if (!all(begin_, poison, bytes_)) give_up("%p (%zu bytes) was written to after it was freed", address(), bytes_);
    }

    void give_back() { ::operator delete(begin_ - guard_bytes, alignment); }
    size_t bytes() const { return bytes_; }

private:
    const void* address() const { return begin_; }

    static bool all(const unsigned char* begin, unsigned char value, size_t count) {
        return count == 0 || (begin[0] == value && memcmp(begin, begin + 1, count - 1) == 0);
    }

    void broken(const char* side, const char* kind, const char* when) const {
        give_up("the guard %s the %s memory at %p (%zu bytes) was overwritten; seen at: %s", side, kind, address(),
                bytes_, when);
    }

    unsigned char* begin_;
    size_t bytes_;
};

struct Memory {
    std::map<uintptr_t, Allocation> device;
    std::map<uintptr_t, size_t> pinned;      // ours, with guards
    std::map<uintptr_t, size_t> registered;  // the program's own
    std::deque<Guarded> kept;
    size_t kept_bytes = 0;
    size_t used = 0;
    uint64_t allocations = 0;
};

Memory& memory() {
    static Memory& one = *new Memory;
    return one;
}

// Whether [address, address + bytes) lies in one of the ranges.
template <class Map, class Size>
bool inside(const Map& ranges, uintptr_t address, size_t bytes, Size size) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return false;
    const auto& [begin, range] = *--after;
    const size_t offset = address - begin;
    return offset <= size(range) && bytes <= size(range) - offset;
}

void keep(Guarded freed) {
    if (freed.bytes() > kept_bytes_at_most) return freed.give_back();
    freed.poison_all();
    memory().kept.push_back(freed);
    memory().kept_bytes += freed.bytes();
    while (memory().kept_bytes > kept_bytes_at_most) {
        Guarded oldest = memory().kept.front();
        memory().kept.pop_front();
        memory().kept_bytes -= oldest.bytes();
        oldest.check_untouched();
        oldest.check("freed", "giving it up");
        oldest.give_back();
    }
}

Allocation& live(CUdeviceptr address) {
    const auto found = memory().device.find(address);
    if (found == memory().device.end() || found->second.released) {
        give_up("free of %p, which is not an allocation of the device", reinterpret_cast<void*>(address));
    }
    return found->second;
}

}  // namespace

CUresult allocate(size_t bytes, CUdeviceptr* address) {
    if (bytes == 0 || address == nullptr) return CUDA_ERROR_INVALID_VALUE;
    memory().allocations += 1;
    if (memory().allocations == settings().oom_at || bytes > free_memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    const uintptr_t begin = Guarded::make(bytes);
    if (begin == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    memory().device[begin] = {bytes, false};
    memory().used += bytes;
    *address = begin;
    return CUDA_SUCCESS;
}

void begin_release(CUdeviceptr address) { live(address).released = true; }

void finish_release(CUdeviceptr address) {
    const auto found = memory().device.find(address);
    Guarded freed(address, found->second.bytes);
    freed.check("device", "its free");
    memory().used -= freed.bytes();
    memory().device.erase(found);
    keep(freed);
}

bool on_device(CUdeviceptr address, size_t bytes) {
    // Memory under release counts as none.
    return inside(memory().device, address, bytes, [](const Allocation& a) { return a.released ? 0 : a.bytes; });
}

size_t total_memory() { return settings().memory; }

size_t free_memory() {
    const size_t at_start = std::min(settings().free.value_or(settings().memory), settings().memory);
    return at_start > memory().used ? at_start - memory().used : 0;
}

CUresult allocate_pinned(size_t bytes, void** address) {
    if (bytes == 0 || address == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const uintptr_t begin = Guarded::make(bytes);
    if (begin == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    memory().pinned[begin] = bytes;
    *address = reinterpret_cast<void*>(begin);
    return CUDA_SUCCESS;
}

void release_pinned(void* address) {
    const auto found = memory().pinned.find(reinterpret_cast<uintptr_t>(address));
    if (found == memory().pinned.end()) give_up("free of %p, which is not pinned memory", address);
    Guarded freed(found->first, found->second);
    freed.check("pinned", "its free");
    memory().pinned.erase(found);
    keep(freed);
}

CUresult register_pinned(void* address, size_t bytes) {
    if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(address, 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    memory().registered[reinterpret_cast<uintptr_t>(address)] = bytes;
    return CUDA_SUCCESS;
}

CUresult unregister_pinned(void* address) {
    const bool known = memory().registered.erase(reinterpret_cast<uintptr_t>(address)) == 1;
    return known ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

bool is_pinned(const void* address, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    const auto size = [](size_t range) { return range; };
    return inside(memory().pinned, begin, bytes, size) || inside(memory().registered, begin, bytes, size);
}

void check_guards(const char* when) {
    for (const auto& [address, allocation] : memory().device) Guarded(address, allocation.bytes).check("device", when);
    for (const auto& [address, bytes] : memory().pinned) Guarded(address, bytes).check("pinned", when);
    for (const Guarded& freed : memory().kept) freed.check_untouched();
}

namespace {

// Unless another thread is in the middle of a call.
__attribute__((destructor)) void check_at_exit() {
    const std::unique_lock<std::recursive_mutex> hold(device_lock(), std::try_to_lock);
    if (hold.owns_lock()) check_guards("the process's end");
}

}  // namespace

}  // namespace software_device
