// Streams as queues of work, events as places in them, and captures that become graphs. Work runs at once, or, with
// the setting `lazy`, as late as a device could: when somebody waits for it.
#pragma once

#include <cuda.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace software_device {

// Runs when its turn comes, perhaps more than once (graphs). An error breaks the device.
using Work = std::function<CUresult()>;

struct Capture {
    CUstreamCaptureMode mode;
    std::thread::id thread;
    cuuint64_t id;
    bool invalid = false;
    std::vector<Work> works;
};

struct Stream {
    bool blocking;  // waits for the legacy stream and the other way round
    bool legacy = false;
    int priority = 0;
    uint64_t issued = 0;
    uint64_t done = 0;
    std::deque<Work> queue;
    std::unique_ptr<Capture> capture;
};

using StreamPointer = std::shared_ptr<Stream>;
using Time = std::chrono::steady_clock::time_point;

// One use of cuEventRecord.
struct Record {
    StreamPointer stream;
    uint64_t place = 0;
    cuuint64_t capture = 0;  // not 0: recorded into this capture
    bool done = false;
    Time time;
};

struct Event {
    bool timing;
    std::shared_ptr<Record> record;
};

// The stream that a handle means; null for a handle that is none.
StreamPointer find_stream(CUstream handle);
CUstream make_stream(bool blocking, int priority);
CUresult destroy_stream(CUstream handle);

// Queues the work, or adds it to the capture that is under way on the stream.
CUresult submit(const StreamPointer& stream, Work work);
// As `submit`, by handle; CUDA_ERROR_INVALID_HANDLE for one that is none.
CUresult submit(CUstream handle, Work work);

// Runs the stream's work up to and including number `place`.
CUresult run_until(const StreamPointer& stream, uint64_t place);
// Runs all its work; refuses a stream that captures.
CUresult synchronize(const StreamPointer& stream);
CUresult synchronize_all();

// Calls that a device cannot record fail while a capture is under way, and spoil it.
CUresult refuse_in_capture();
CUresult spoil_capture(Stream& stream);

}  // namespace software_device
