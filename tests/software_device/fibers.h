// Fibers: flows of control with a stack of their own that one host thread runs in turn. A kernel's thread that waits
// at a barrier keeps its fiber; the others go on in another. The first entry of a fiber costs a system call
// (setcontext), every later switch a few nanoseconds (_setjmp and _longjmp, which leave the signal mask alone).
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <vector>

namespace software_device {

class Fiber {
public:
    using Body = void (*)(void* argument);

    // `body` must never return.
    Fiber(Body body, void* argument);
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Runs the fiber until it calls `suspend`.
    void resume();
    // Called inside the fiber: back to the caller of `resume`.
    void suspend();
    // Forgets what the fiber was doing: the next `resume` starts its body again.
    void restart();

private:
    static void enter(unsigned low, unsigned high);

    Body body_;
    void* argument_;
    void* stack_;
    bool started_ = false;
    ucontext_t entry_;
    jmp_buf inside_;
    jmp_buf caller_;
};

// Fibers that wait for work, so that stacks are made once.
class FiberPool {
public:
    FiberPool(Fiber::Body body, void* argument) : body_(body), argument_(argument) {}
    Fiber* take();
    void give_back(Fiber* fiber) { idle_.push_back(fiber); }

private:
    Fiber::Body body_;
    void* argument_;
    std::vector<std::unique_ptr<Fiber>> all_;
    std::vector<Fiber*> idle_;
};

}  // namespace software_device
