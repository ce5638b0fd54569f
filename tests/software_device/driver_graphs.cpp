// The driver's calls about stream capture and graphs. A graph is the list of works that were submitted in between,
// each with a copy of its arguments; replaying it runs them in that order.
#include <cuda.h>

#include <map>

#include "calls.h"
#include "streams.h"

using namespace software_device;

namespace {

using Works = std::shared_ptr<const std::vector<Work>>;

template <class Handle>
std::map<Handle, Works>& table() {
    static auto& one = *new std::map<Handle, Works>;
    return one;
}

template <class Handle>
Works find(Handle handle) {
    const auto found = table<Handle>().find(handle);
    return found == table<Handle>().end() ? nullptr : found->second;
}

// A graph and its executable form are the same list under two handles.
template <class Handle>
Handle keep(const Works& works) {
    static uintptr_t next = 0x1000;
    const auto handle = reinterpret_cast<Handle>(next += 16);
    table<Handle>()[handle] = works;
    return handle;
}

CUresult begin(const StreamPointer& stream, CUstreamCaptureMode mode) {
    static cuuint64_t captures = 0;
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_unique<Capture>();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->id = ++captures;
    return CUDA_SUCCESS;
}

CUresult end(const StreamPointer& stream, CUgraph* graph) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    const bool own = stream->capture->thread == std::this_thread::get_id();
    if (!own && stream->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    const std::unique_ptr<Capture> capture = std::move(stream->capture);
    *graph = nullptr;
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = keep<CUgraph>(std::make_shared<const std::vector<Work>>(std::move(capture->works)));
    return CUDA_SUCCESS;
}

CUstreamCaptureStatus status_of(const Stream& stream) {
    if (!stream.capture) return CU_STREAM_CAPTURE_STATUS_NONE;
    return stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUresult replay(const Works& works) {
    for (const Work& work : *works) {
        const CUresult result = work();
        if (result != CUDA_SUCCESS) return result;
    }
    return CUDA_SUCCESS;
}

}  // namespace

CUresult CUDAAPI cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    return driver_call(Needs::context, "cuStreamBeginCapture_v2", [&] { return begin(find_stream(stream), mode); });
}

CUresult CUDAAPI cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    return driver_call(Needs::context, "cuStreamEndCapture", [&] { return end(find_stream(stream), graph); });
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    return driver_call(Needs::context, "cuStreamIsCapturing", [&] {
        const StreamPointer stream = find_stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        *status = status_of(*stream);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies, size_t* count) {
    return driver_call(Needs::context, "cuStreamGetCaptureInfo_v2", [&] {
        const StreamPointer stream = find_stream(handle);
        if (!stream || status == nullptr) return CUDA_ERROR_INVALID_VALUE;
        // The graph under construction has no handle here.
        if (graph != nullptr || dependencies != nullptr || count != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
        *status = status_of(*stream);
        if (id != nullptr) *id = stream->capture ? stream->capture->id : 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    return driver_call(Needs::context, "cuGraphInstantiateWithFlags", [&] {
        const Works works = find(graph);
        if (!works) return CUDA_ERROR_INVALID_VALUE;
        log_detail(std::to_string(works->size()) + " nodes");
        *executable = keep<CUgraphExec>(works);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec executable, CUstream) {
    return driver_call(Needs::context, "cuGraphUpload",
                       [&] { return find(executable) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    return driver_call(Needs::context, "cuGraphLaunch", [&] {
        const Works works = find(executable);
        return works ? submit(stream, [works] { return replay(works); }) : CUDA_ERROR_INVALID_VALUE;
    });
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    return driver_call(Needs::context, "cuGraphGetNodes", [&] {
        const Works works = find(graph);
        if (!works) return CUDA_ERROR_INVALID_VALUE;
        // Nodes have no handles here; their number is all there is to ask for.
        if (nodes != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
        *count = works->size();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
    return driver_call(Needs::context, "cuGraphDestroy", [&] {
        return table<CUgraph>().erase(graph) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    });
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec executable) {
    return driver_call(Needs::context, "cuGraphExecDestroy", [&] {
        return table<CUgraphExec>().erase(executable) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    });
}
