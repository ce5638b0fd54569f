// See fibers.h. Stacks are mapped with a page below them that cannot be touched, so an overflow stops the process
// instead of corrupting a neighbour.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>

#include "faults.h"

namespace software_device {

namespace {

constexpr size_t guard_bytes = 4096;
constexpr size_t stack_bytes = 256 * 1024;

}  // namespace

Fiber::Fiber(Body body, void* argument) : body_(body), argument_(argument) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
    stack_ = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stack_ == MAP_FAILED || mprotect(stack_, guard_bytes, PROT_NONE) != 0) {
        give_up("no memory for the stack of a kernel's thread");
    }
}

Fiber::~Fiber() { munmap(stack_, guard_bytes + stack_bytes); }

void Fiber::enter(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fiber*>(uintptr_t{low} | uintptr_t{high} << 32);
    self->body_(self->argument_);
    give_up("a fiber's body returned");
}

void Fiber::restart() { started_ = false; }

void Fiber::resume() {
    if (_setjmp(caller_) != 0) return;
    if (started_) _longjmp(inside_, 1);
    started_ = true;
    getcontext(&entry_);
    entry_.uc_stack.ss_sp = static_cast<char*>(stack_) + guard_bytes;
    entry_.uc_stack.ss_size = stack_bytes;
    entry_.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&entry_, reinterpret_cast<void (*)()>(&Fiber::enter), 2, static_cast<unsigned>(self),
                static_cast<unsigned>(self >> 32));
    setcontext(&entry_);
}

void Fiber::suspend() {
    if (_setjmp(inside_) == 0) _longjmp(caller_, 1);
}

Fiber* FiberPool::take() {
    if (idle_.empty()) {
        all_.push_back(std::make_unique<Fiber>(body_, argument_));
        return all_.back().get();
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
}

}  // namespace software_device
