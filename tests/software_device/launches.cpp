// See launches.h. The host threads are started at the first use and wait for work until the process ends.
#include "launches.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "calls.h"
#include "faults.h"
#include "memory.h"

namespace software_device {

namespace {

// Helpers that all run the same function, once for each call of `run`.
class Helpers {
public:
    explicit Helpers(unsigned count) : count_(count) {
        for (unsigned i = 0; i < count; ++i) std::thread([this] { serve(); }).detach();
    }

    void run(const std::function<void()>& work) {
        {
            const std::lock_guard<std::mutex> hold(lock_);
            work_ = &work;
            round_ += 1;
            busy_ = count_;
        }
        wake_.notify_all();
        work();
        std::unique_lock<std::mutex> hold(lock_);
        idle_.wait(hold, [this] { return busy_ == 0; });
    }

private:
    void serve() {
        uint64_t seen = 0;
        for (;;) {
            std::unique_lock<std::mutex> hold(lock_);
            wake_.wait(hold, [&] { return round_ != seen; });
            seen = round_;
            const std::function<void()>* work = work_;
            hold.unlock();
            (*work)();
            hold.lock();
            busy_ -= 1;
            if (busy_ == 0) idle_.notify_one();
        }
    }

    const unsigned count_;
    std::mutex lock_;
    std::condition_variable wake_;
    std::condition_variable idle_;
    const std::function<void()>* work_ = nullptr;
    uint64_t round_ = 0;
    unsigned busy_ = 0;
};

}  // namespace

void in_parallel(uint64_t count, uint64_t chunk, const std::function<void(uint64_t, uint64_t)>& work) {
    std::atomic<uint64_t> next{0};
    const std::function<void()> share = [&] {
        for (uint64_t begin; (begin = next.fetch_add(chunk)) < count;) work(begin, std::min(begin + chunk, count));
    };
    if (settings().threads == 1 || count <= chunk) return share();
    // Never destroyed: its threads wait in it while the process ends.
    static Helpers& helpers = *new Helpers(settings().threads - 1);
    helpers.run(share);
}

CUresult run_grid(const Grid& grid) {
    std::mutex lock;
    std::string failure;
    std::atomic<bool> failed{false};
    const uint64_t chunk = std::max<uint64_t>(1, std::min<uint64_t>(64, grid.blocks() / (8 * settings().threads)));
    in_parallel(grid.blocks(), chunk, [&](uint64_t begin, uint64_t end) {
        BlockRunner& runner = block_runner();
        runner.begin(grid);
        for (uint64_t block = begin; block < end && !failed; ++block) {
            const std::string reason = runner.run(block);
            if (reason.empty()) continue;
            const std::lock_guard<std::mutex> hold(lock);
            failure = reason;
            failed = true;
        }
    });
    if (settings().check_guards) check_guards(grid.kernel.c_str());
    if (!failed) return CUDA_SUCCESS;
    complain("%s", failure.c_str());
    return CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace software_device
