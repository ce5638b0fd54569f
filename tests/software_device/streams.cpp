// See streams.h.
#include "streams.h"

#include <algorithm>
#include <map>

#include "calls.h"
#include "faults.h"
#include "this_thread.h"

namespace software_device {

namespace {

struct Streams {
    StreamPointer legacy;
    std::map<CUstream, StreamPointer> made;
    std::vector<std::weak_ptr<Stream>> per_thread;

    std::vector<StreamPointer> all() const {
        std::vector<StreamPointer> result{legacy};
        for (const auto& [handle, stream] : made) result.push_back(stream);
        for (const auto& stream : per_thread) {
            if (const auto alive = stream.lock()) result.push_back(alive);
        }
        return result;
    }
};

StreamPointer new_stream(bool blocking) {
    auto stream = std::make_shared<Stream>();
    stream->blocking = blocking;
    return stream;
}

Streams& streams() {
    static Streams& one = *new Streams;
    if (!one.legacy) {
        one.legacy = new_stream(true);
        one.legacy->legacy = true;
    }
    return one;
}

StreamPointer per_thread_stream() {
    StreamPointer& stream = this_thread().notes().per_thread_stream;
    if (!stream) {
        stream = new_stream(true);
        streams().per_thread.push_back(stream);
    }
    return stream;
}

// The implicit order between the legacy stream and the blocking ones.
std::vector<std::pair<StreamPointer, uint64_t>> implicit_waits(const Stream& stream) {
    std::vector<std::pair<StreamPointer, uint64_t>> result;
    if (!stream.blocking) return result;
    for (const StreamPointer& other : streams().all()) {
        const bool ordered = other.get() != &stream && other->blocking && (stream.legacy || other->legacy);
        if (ordered && other->done < other->issued) result.emplace_back(other, other->issued);
    }
    return result;
}

Work after(std::vector<std::pair<StreamPointer, uint64_t>> waits, Work work) {
    if (waits.empty()) return work;
    return [waits, work] {
        for (const auto& [stream, place] : waits) {
            const CUresult result = run_until(stream, place);
            if (result != CUDA_SUCCESS) return result;
        }
        return work();
    };
}

}  // namespace

StreamPointer find_stream(CUstream handle) {
    if (handle == nullptr || handle == CU_STREAM_LEGACY) return streams().legacy;
    if (handle == CU_STREAM_PER_THREAD) return per_thread_stream();
    const auto found = streams().made.find(handle);
    return found == streams().made.end() ? nullptr : found->second;
}

CUstream make_stream(bool blocking, int priority) {
    const StreamPointer stream = new_stream(blocking);
    stream->priority = priority;
    const auto handle = reinterpret_cast<CUstream>(stream.get());
    streams().made[handle] = stream;
    return handle;
}

CUresult destroy_stream(CUstream handle) {
    const auto found = streams().made.find(handle);
    if (found == streams().made.end()) return CUDA_ERROR_INVALID_HANDLE;
    const StreamPointer stream = found->second;
    stream->capture.reset();
    const CUresult result = run_until(stream, stream->issued);
    streams().made.erase(handle);
    return result;
}

CUresult submit(const StreamPointer& stream, Work work) {
    if (stream->capture) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream->capture->works.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    stream->queue.push_back(after(implicit_waits(*stream), std::move(work)));
    stream->issued += 1;
    return settings().lazy ? CUDA_SUCCESS : run_until(stream, stream->issued);
}

CUresult submit(CUstream handle, Work work) {
    const StreamPointer stream = find_stream(handle);
    return stream ? submit(stream, std::move(work)) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult run_until(const StreamPointer& stream, uint64_t place) {
    while (stream->done < place && !stream->queue.empty()) {
        if (sticky_error() != CUDA_SUCCESS) return sticky_error();
        const Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        const CUresult result = work();
        stream->done += 1;
        if (result != CUDA_SUCCESS) break_device(result);
    }
    return sticky_error();
}

CUresult synchronize(const StreamPointer& stream) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return spoil_capture(*stream);
    for (const auto& [other, place] : implicit_waits(*stream)) {
        if (stream->legacy) run_until(other, place);
    }
    return run_until(stream, stream->issued);
}

CUresult synchronize_all() {
    for (const StreamPointer& stream : streams().all()) run_until(stream, stream->issued);
    return sticky_error();
}

CUresult spoil_capture(Stream& stream) {
    stream.capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult refuse_in_capture() {
    CUresult result = CUDA_SUCCESS;
    for (const StreamPointer& stream : streams().all()) {
        if (!stream->capture || stream->capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        const bool own = stream->capture->thread == std::this_thread::get_id();
        if (own || stream->capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL) result = spoil_capture(*stream);
    }
    return result;
}

}  // namespace software_device
