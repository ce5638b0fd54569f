// The driver's calls about streams and events.
#include <cuda.h>

#include <map>

#include "calls.h"
#include "faults.h"
#include "streams.h"

using namespace software_device;

namespace {

std::map<CUevent, std::shared_ptr<Event>>& events() {
    static auto& table = *new std::map<CUevent, std::shared_ptr<Event>>;
    return table;
}

std::shared_ptr<Event> find_event(CUevent handle) {
    const auto found = events().find(handle);
    return found == events().end() ? nullptr : found->second;
}

CUresult create(CUstream* handle, unsigned flags, int priority) {
    if (handle == nullptr || (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) return CUDA_ERROR_INVALID_VALUE;
    *handle = make_stream(flags == CU_STREAM_DEFAULT, priority);
    return CUDA_SUCCESS;
}

// Not ready once, then done: a program that polls must come to an end, and one that does not poll again must notice.
CUresult poll(const StreamPointer& stream, uint64_t place) {
    if (stream->done >= place) return sticky_error();
    const CUresult result = run_until(stream, place);
    return result == CUDA_SUCCESS ? CUDA_ERROR_NOT_READY : result;
}

CUresult record(const std::shared_ptr<Event>& event, const StreamPointer& stream) {
    auto record = std::make_shared<Record>();
    record->stream = stream;
    if (stream->capture) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        record->capture = stream->capture->id;
        event->record = record;
        return CUDA_SUCCESS;
    }
    record->place = stream->issued + 1;
    event->record = record;
    return submit(stream, [record] {
        record->time = std::chrono::steady_clock::now();
        record->done = true;
        return CUDA_SUCCESS;
    });
}

CUresult wait_in_capture(Stream& stream, const Record* record) {
    if (record != nullptr && record->capture == stream.capture->id) return CUDA_SUCCESS;
    stream.capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
}

CUresult wait(const StreamPointer& stream, const std::shared_ptr<Record>& record) {
    if (stream->capture) return wait_in_capture(*stream, record.get());
    if (!record || record->done) return CUDA_SUCCESS;
    if (record->capture != 0) {
        complain("a capture that spreads to a second stream by an event is not supported here");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return submit(stream, [record] { return run_until(record->stream, record->place); });
}

CUresult elapsed(float* milliseconds, const Event* start, const Event* end) {
    if (!start || !end || !start->timing || !end->timing || !start->record || !end->record) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!start->record->done || !end->record->done) return CUDA_ERROR_NOT_READY;
    using Milliseconds = std::chrono::duration<float, std::milli>;
    *milliseconds = Milliseconds(end->record->time - start->record->time).count();
    return CUDA_SUCCESS;
}

template <class Body>
CUresult stream_call(const char* name, CUstream handle, Body body) {
    return driver_call(Needs::context, name, [&] {
        const StreamPointer stream = find_stream(handle);
        return stream ? body(stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

template <class Body>
CUresult event_call(const char* name, CUevent handle, Body body) {
    return driver_call(Needs::context, name, [&] {
        const std::shared_ptr<Event> event = find_event(handle);
        return event ? body(event) : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned flags) {
    return driver_call(Needs::context, "cuStreamCreate", [&] { return create(stream, flags, 0); });
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
    return driver_call(Needs::context, "cuStreamCreateWithPriority", [&] { return create(stream, flags, priority); });
}

CUresult CUDAAPI cuStreamDestroy(CUstream stream) {
    return driver_call(Needs::context, "cuStreamDestroy_v2", [&] { return destroy_stream(stream); });
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    return stream_call("cuStreamSynchronize", handle, [](const StreamPointer& stream) { return synchronize(stream); });
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    return stream_call("cuStreamQuery", handle, [](const StreamPointer& stream) {
        return stream->capture ? spoil_capture(*stream) : poll(stream, stream->issued);
    });
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    return stream_call("cuStreamWaitEvent", handle, [&](const StreamPointer& stream) {
        const std::shared_ptr<Event> found = find_event(event);
        return found ? wait(stream, found->record) : CUDA_ERROR_INVALID_HANDLE;
    });
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void* argument) {
    return stream_call("cuLaunchHostFunc", handle, [&](const StreamPointer& stream) {
        return submit(stream, [=] {
            function(argument);
            return CUDA_SUCCESS;
        });
    });
}

CUresult CUDAAPI cuEventCreate(CUevent* handle, unsigned flags) {
    return driver_call(Needs::context, "cuEventCreate", [&] {
        auto event = std::make_shared<Event>();
        event->timing = (flags & CU_EVENT_DISABLE_TIMING) == 0;
        *handle = reinterpret_cast<CUevent>(event.get());
        events()[*handle] = event;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
    return driver_call(Needs::context, "cuEventDestroy_v2",
                       [&] { return events().erase(handle) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream) {
    return event_call("cuEventRecord", handle, [&](const std::shared_ptr<Event>& event) {
        const StreamPointer found = find_stream(stream);
        return found ? record(event, found) : CUDA_ERROR_INVALID_HANDLE;
    });
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    return event_call("cuEventSynchronize", handle, [](const std::shared_ptr<Event>& event) {
        if (!event->record) return CUDA_SUCCESS;
        if (event->record->capture != 0) return CUDA_ERROR_CAPTURED_EVENT;
        return run_until(event->record->stream, event->record->place);
    });
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    return event_call("cuEventQuery", handle, [](const std::shared_ptr<Event>& event) {
        if (!event->record) return CUDA_SUCCESS;
        if (event->record->capture != 0) return CUDA_ERROR_CAPTURED_EVENT;
        return poll(event->record->stream, event->record->place);
    });
}

CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return driver_call(Needs::context, "cuEventElapsedTime",
                       [&] { return elapsed(milliseconds, find_event(start).get(), find_event(end).get()); });
}
