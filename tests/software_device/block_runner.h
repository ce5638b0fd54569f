// Runs the threads of one block after the other on one host thread, switching between them only where they wait for
// each other: at __syncthreads and at the exchanges within a warp. Blocks with an odd number run their threads last
// first, so a result that needs a barrier that is missing is wrong in some block.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fibers.h"
#include "this_thread.h"

namespace software_device {

// Where in the source a thread waits.
struct Place {
    const char* file = "";
    int line = 0;
    bool operator==(const Place& other) const;
    std::string text() const;
};

enum class Exchange { shuffle, ballot, sync };

// What a thread brings to an exchange of its warp, and what it takes away.
struct WarpRequest {
    Exchange kind;
    uint32_t mask;
    unsigned source = 0;  // the lane to read from
    uint64_t value = 0;
    uint64_t answer = 0;
    Place place;
};

// One launch of a kernel with its arguments.
struct Grid {
    std::string kernel;
    std::function<void()> thread;
    uint3 grid_size;
    uint3 block_size;
    size_t dynamic_shared_bytes;
    uint64_t blocks() const { return uint64_t{grid_size.x} * grid_size.y * grid_size.z; }
};

class BlockRunner {
public:
    BlockRunner();

    // Must come before the first block of a launch on this host thread.
    void begin(const Grid& grid);
    // Returns what went wrong; empty when all threads came to their end.
    std::string run(uint64_t block);

    // Called by kernels' threads.
    void wait_at_barrier(Place place);
    uint64_t exchange(WarpRequest request);
    [[noreturn]] void fail(const std::string& reason);
    unsigned lane() const { return current_ % 32; }

private:
    enum class State { not_started, running, ready, at_barrier, in_warp, done };
    struct Thread {
        State state;
        uint3 index;
        Fiber* fiber;
        Place place;
        WarpRequest* request;
    };

    static void fiber_body(void* self);
    void run_unstarted();
    void start_all();
    void resume(unsigned thread);
    bool resume_ready(unsigned first, unsigned end);
    void run_warp(unsigned warp);
    bool release_warp(unsigned warp);
    bool release_exchange(unsigned first, unsigned end, uint32_t mask);
    void answer(unsigned first, uint32_t mask);
    bool release_barrier();
    void suspend_current(State state);
    void set_current(unsigned thread);
    void prepare_shared_memory();
    void check_shared_memory();
    std::string describe_stuck() const;
    std::string thread_name(unsigned thread) const;
    unsigned in_order(unsigned position) const;

    const Grid* grid_ = nullptr;
    FiberPool fibers_;
    std::vector<Thread> threads_;
    std::vector<unsigned char> dynamic_shared_;
    std::string failure_;
    unsigned count_ = 0;
    unsigned started_ = 0;
    unsigned done_ = 0;
    unsigned current_ = 0;
    bool last_first_ = false;
    bool shared_memory_used_ = true;
};

// This host thread's runner.
BlockRunner& block_runner();

}  // namespace software_device
