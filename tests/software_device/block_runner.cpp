// The scheduling of a block's threads; see block_runner.h.
#include "block_runner.h"

#include <algorithm>
#include <cstring>

#include "shared_memory.h"

namespace software_device {

namespace {

constexpr unsigned warp_size = 32;
constexpr size_t shared_guard_bytes = 64;
constexpr unsigned char poison = 0xFF;

std::string coordinates(uint3 at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

uint3 split(uint64_t index, uint3 size) {
    return {static_cast<unsigned>(index % size.x), static_cast<unsigned>(index / size.x % size.y),
            static_cast<unsigned>(index / size.x / size.y)};
}

}  // namespace

bool Place::operator==(const Place& other) const {
    return line == other.line && (file == other.file || strcmp(file, other.file) == 0);
}

std::string Place::text() const { return std::string(file) + ":" + std::to_string(line); }

BlockRunner::BlockRunner() : fibers_(&BlockRunner::fiber_body, this) {}

BlockRunner& block_runner() {
    if (here.runner == nullptr) here.runner = new BlockRunner;
    return *here.runner;
}

void BlockRunner::begin(const Grid& grid) {
    grid_ = &grid;
    count_ = grid.block_size.x * grid.block_size.y * grid.block_size.z;
    threads_.resize(count_);
    for (unsigned i = 0; i < count_; ++i) threads_[i].index = split(i, grid.block_size);
    dynamic_shared_.resize(grid.dynamic_shared_bytes + shared_guard_bytes);
    shared_memory_used_ = true;
    here.block_size = grid.block_size;
    here.grid_size = grid.grid_size;
}

std::string BlockRunner::run(uint64_t block) {
    here.block_index = split(block, grid_->grid_size);
    last_first_ = block % 2 == 1;
    failure_.clear();
    started_ = done_ = 0;
    for (Thread& thread : threads_) thread.state = State::not_started;
    prepare_shared_memory();
    start_all();
    const unsigned warps = (count_ + warp_size - 1) / warp_size;
    while (failure_.empty() && done_ < count_) {
        for (unsigned i = 0; i < warps && failure_.empty(); ++i) run_warp(last_first_ ? warps - 1 - i : i);
        if (!failure_.empty() || done_ == count_) break;
        if (!release_barrier()) failure_ = describe_stuck();
    }
    if (failure_.empty()) check_shared_memory();
    if (failure_.empty()) return "";
    for (Thread& thread : threads_) {
        if (thread.state == State::not_started || thread.state == State::done) continue;
        thread.fiber->restart();
        fibers_.give_back(thread.fiber);
    }
    return "kernel " + grid_->kernel + ", block " + coordinates(here.block_index) + ": " + failure_;
}

// Before the first block of a launch, and again after every block whose threads waited for each other: a kernel has
// no use for shared memory without that, and filling it costs more than a small block's work.
void BlockRunner::prepare_shared_memory() {
    if (shared_memory_used_) {
        memset(dynamic_shared_.data(), poison, dynamic_shared_.size());
        poison_static_shared_memory();
    }
    here.dynamic_shared = dynamic_shared_.data();
    shared_memory_used_ = false;
}

void BlockRunner::check_shared_memory() {
    if (!shared_memory_used_) return;
    const auto guard = dynamic_shared_.begin() + static_cast<ptrdiff_t>(grid_->dynamic_shared_bytes);
    if (std::all_of(guard, dynamic_shared_.end(), [](unsigned char byte) { return byte == poison; })) return;
    failure_ = "wrote past the " + std::to_string(grid_->dynamic_shared_bytes) + " bytes of dynamic shared memory";
}

unsigned BlockRunner::in_order(unsigned position) const { return last_first_ ? count_ - 1 - position : position; }

void BlockRunner::set_current(unsigned thread) {
    current_ = thread;
    here.thread_index = threads_[thread].index;
}

// A fiber runs threads from their beginning until one has to wait; that thread keeps it.
void BlockRunner::fiber_body(void* self) {
    auto* runner = static_cast<BlockRunner*>(self);
    for (;;) runner->run_unstarted();
}

void BlockRunner::run_unstarted() {
    Fiber* fiber = threads_[current_].fiber;
    while (started_ < count_ && failure_.empty()) {
        const unsigned thread = in_order(started_++);
        set_current(thread);
        threads_[thread].fiber = fiber;
        threads_[thread].state = State::running;
        grid_->thread();
        threads_[current_].state = State::done;
        done_ += 1;
    }
    fibers_.give_back(fiber);
    fiber->suspend();
}

void BlockRunner::start_all() {
    while (started_ < count_ && failure_.empty()) {
        current_ = in_order(started_);
        threads_[current_].fiber = fibers_.take();
        threads_[current_].fiber->resume();
    }
}

void BlockRunner::resume(unsigned thread) {
    set_current(thread);
    threads_[thread].state = State::running;
    threads_[thread].fiber->resume();
}

bool BlockRunner::resume_ready(unsigned first, unsigned end) {
    bool any = false;
    for (unsigned i = 0; i < end - first && failure_.empty(); ++i) {
        const unsigned thread = last_first_ ? end - 1 - i : first + i;
        if (threads_[thread].state != State::ready) continue;
        resume(thread);
        any = true;
    }
    return any;
}

void BlockRunner::run_warp(unsigned warp) {
    const unsigned first = warp * warp_size;
    const unsigned end = std::min(first + warp_size, count_);
    bool progress = true;
    while (progress && failure_.empty()) {
        progress = resume_ready(first, end);
        progress = release_warp(warp) || progress;
    }
}

bool BlockRunner::release_warp(unsigned warp) {
    const unsigned first = warp * warp_size;
    const unsigned end = std::min(first + warp_size, count_);
    bool any = false;
    for (unsigned thread = first; thread < end; ++thread) {
        if (threads_[thread].state != State::in_warp) continue;
        any = release_exchange(first, end, threads_[thread].request->mask) || any;
        if (!failure_.empty()) return false;
    }
    return any;
}

// Lets the lanes of `mask` go on when all of them that have not come to their end wait at the same exchange.
bool BlockRunner::release_exchange(unsigned first, unsigned end, uint32_t mask) {
    const WarpRequest* model = nullptr;
    uint32_t present = 0;
    for (unsigned thread = first; thread < end; ++thread) {
        if (!(mask >> (thread - first) & 1) || threads_[thread].state == State::done) continue;
        if (threads_[thread].state != State::in_warp) return false;
        const WarpRequest* request = threads_[thread].request;
        if (model == nullptr) model = request;
        if (request->mask != mask || request->kind != model->kind || !(request->place == model->place)) return false;
        present |= 1u << (thread - first);
    }
    answer(first, present);
    for (unsigned thread = first; thread < end; ++thread) {
        if (present >> (thread - first) & 1) threads_[thread].state = State::ready;
    }
    return true;
}

void BlockRunner::answer(unsigned first, uint32_t present) {
    uint64_t ballot = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (present >> lane & 1 && threads_[first + lane].request->value != 0) ballot |= uint64_t{1} << lane;
    }
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(present >> lane & 1)) continue;
        WarpRequest& request = *threads_[first + lane].request;
        if (request.kind == Exchange::ballot) request.answer = ballot;
        if (request.kind != Exchange::shuffle) continue;
        if (!(present >> request.source & 1)) {
            failure_ = thread_name(first + lane) + " reads from lane " + std::to_string(request.source) +
                       ", which does not take part in the shuffle at " + request.place.text();
            return;
        }
        request.answer = threads_[first + request.source].request->value;
    }
}

bool BlockRunner::release_barrier() {
    const Thread* model = nullptr;
    for (const Thread& thread : threads_) {
        if (thread.state == State::done) continue;
        if (thread.state != State::at_barrier) return false;
        if (model == nullptr) model = &thread;
        if (!(thread.place == model->place)) return false;
    }
    for (Thread& thread : threads_) {
        if (thread.state == State::at_barrier) thread.state = State::ready;
    }
    return true;
}

void BlockRunner::suspend_current(State state) {
    const unsigned thread = current_;
    threads_[thread].state = state;
    shared_memory_used_ = true;
    threads_[thread].fiber->suspend();
}

void BlockRunner::wait_at_barrier(Place place) {
    threads_[current_].place = place;
    suspend_current(State::at_barrier);
}

uint64_t BlockRunner::exchange(WarpRequest request) {
    if (!(request.mask >> lane() & 1)) fail("the mask at " + request.place.text() + " leaves out the calling lane");
    threads_[current_].place = request.place;
    threads_[current_].request = &request;
    suspend_current(State::in_warp);
    return request.answer;
}

void BlockRunner::fail(const std::string& reason) {
    failure_ = thread_name(current_) + ": " + reason;
    for (;;) threads_[current_].fiber->suspend();
}

std::string BlockRunner::thread_name(unsigned thread) const {
    return "thread " + coordinates(threads_[thread].index);
}

std::string BlockRunner::describe_stuck() const {
    std::string waiting = "the block is stuck:";
    const Thread* last = nullptr;
    for (unsigned i = 0; i < count_; ++i) {
        const Thread& thread = threads_[i];
        if (thread.state == State::done) continue;
        if (last != nullptr && last->state == thread.state && last->place == thread.place) continue;
        waiting += " from " + thread_name(i) + " on waiting at " + thread.place.text() +
                   (thread.state == State::at_barrier ? " (barrier);" : " (warp);");
        last = &thread;
    }
    return waiting + " " + std::to_string(done_) + " of " + std::to_string(count_) + " threads have ended";
}

}  // namespace software_device
