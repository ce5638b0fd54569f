// Tests of the driver's part of the software device: memory, streams, late work, graphs, modules and faults.
#include <cmath>
#include <cstring>

#include "self_test.h"

namespace {

constexpr unsigned count = 512;
constexpr size_t bytes = count * sizeof(float);

// A stream and two arrays: `in` of ones, `out` of zeros. The kernel `scale_and_count` leads from one to the other.
struct Bench {
    Bench() : stream(open_stream()) {
        in = to_device(std::vector<float>(count, 1.0f));
        out = to_device(std::vector<float>(count, 0.0f));
    }

    CUresult scale(CUdeviceptr to, float factor) const {
        return launch("scale_and_count", stream, 4, 128, 0, in, to, factor, count);
    }

    CUstream stream;
    CUdeviceptr in;
    CUdeviceptr out;
};

float* pinned(float value) {
    void* memory;
    OK(cuMemHostAlloc(&memory, bytes, 0));
    auto* floats = static_cast<float*>(memory);
    for (unsigned i = 0; i < count; ++i) floats[i] = value;
    return floats;
}

CUgraphExec instantiate(CUstream stream) {
    CUgraph graph;
    CUgraphExec executable;
    size_t nodes = 0;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphGetNodes(graph, nullptr, &nodes));
    CHECK(nodes > 0);
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphDestroy(graph));
    return executable;
}

CUstreamCaptureStatus status(CUstream stream) {
    CUstreamCaptureStatus result;
    OK(cuStreamIsCapturing(stream, &result));
    return result;
}

void copies_and_fills() {
    const Bench bench;
    std::vector<float> host(count, 3.0f);
    OK(cuMemcpyHtoDAsync(bench.in, host.data(), bytes, bench.stream));
    std::fill(host.begin(), host.end(), 4.0f);  // pageable memory is staged
    OK(cuMemcpyDtoDAsync(bench.out, bench.in, bytes / 2, bench.stream));
    OK(cuMemsetD32Async(bench.out + bytes / 2, 0x40A00000, count / 2, bench.stream));
    OK(cuMemcpyDtoHAsync(host.data(), bench.out, bytes, bench.stream));  // to pageable memory: waits
    CHECK(host[0] == 3.0f && host[count / 2 - 1] == 3.0f && host[count / 2] == 5.0f && host[count - 1] == 5.0f);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoDAsync(bench.in + 4, host.data(), bytes, bench.stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoHAsync(host.data(), 0x1000, 4, bench.stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(bench.in, 0, bytes + 1, bench.stream));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuMemsetD8Async(bench.in, 0, 1, reinterpret_cast<CUstream>(0x99)));
}

}  // namespace

TEST(copies, "") { copies_and_fills(); }
TEST(copies_when_lazy, "lazy") { copies_and_fills(); }

TEST(memory_is_counted_and_poisoned, "memory=1000000,free=600000") {
    open_device();
    size_t free, total;
    OK(cuMemGetInfo(&free, &total));
    CHECK(free == 600000 && total == 1000000);
    CUdeviceptr a, b;
    OK(cuMemAlloc(&a, 500000));
    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&b, 100001));
    OK(cuMemAllocAsync(&b, 100000, nullptr));
    OK(cuMemGetInfo(&free, &total));
    CHECK(free == 0);
    for (const float value : to_host<float>(a, 100)) CHECK(std::isnan(value));
    OK(cuMemFree(a));
    OK(cuMemFreeAsync(b, nullptr));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&a, 0));
}

TEST(queued_frees_make_room, "lazy,memory=1000") {
    const CUstream stream = open_stream();
    CUdeviceptr a, b;
    OK(cuMemAllocAsync(&a, 1000, stream));
    OK(cuMemFreeAsync(a, stream));
    size_t free, total;
    OK(cuMemGetInfo(&free, &total));
    CHECK(free == 0);
    OK(cuMemAllocAsync(&b, 1000, stream));
}

TEST(one_allocation_fails, "oom-at=2") {
    open_device();
    CUdeviceptr a;
    OK(cuMemAlloc(&a, 4));
    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&a, 4));
    OK(cuMemAlloc(&a, 4));
}

TEST_ENDING(unknown_free_ends_the_process, "", 99) {
    open_device();
    cuMemFree(0x12345);
}

TEST_ENDING(double_free_ends_the_process, "lazy", 99) {
    const Bench bench;
    OK(cuMemFreeAsync(bench.in, bench.stream));
    cuMemFreeAsync(bench.in, bench.stream);
}

TEST_ENDING(write_after_free_is_found, "", 99) {
    const Bench bench;
    OK(cuMemFree(bench.out));
    OK(bench.scale(bench.out, 2.0f));
}

TEST(freed_memory_is_no_target, "lazy") {
    const Bench bench;
    OK(cuMemFreeAsync(bench.out, bench.stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(bench.out, 0, 1, bench.stream));
}

// What lazy work must get wrong where a program forgets to wait.
TEST(lazy_work_waits_for_synchronisation, "lazy") {
    const Bench bench;
    float* source = pinned(1.0f);
    float* result = pinned(0.0f);
    OK(cuMemcpyHtoDAsync(bench.in, source, bytes, bench.stream));
    OK(bench.scale(bench.out, 2.0f));
    OK(cuMemcpyDtoHAsync(result, bench.out, bytes, bench.stream));
    CHECK(result[0] == 0.0f);
    source[0] = 10.0f;  // too early: the copy has not read it yet
    OK(cuStreamSynchronize(bench.stream));
    CHECK(result[0] == 20.0f && result[1] == 3.0f);
    OK(cuMemFreeHost(source));
    OK(cuMemFreeHost(result));
}

TEST(lazy_streams_need_events, "lazy") {
    const Bench bench;
    CUstream other;
    CUevent event;
    float* result = pinned(0.0f);
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(bench.scale(bench.out, 2.0f));
    OK(cuEventRecord(event, bench.stream));
    OK(bench.scale(bench.out, 5.0f));
    OK(cuMemcpyDtoHAsync(result, bench.out, bytes, other));
    OK(cuStreamSynchronize(other));
    CHECK(result[0] == 0.0f);
    OK(cuStreamWaitEvent(other, event, 0));
    OK(cuMemcpyDtoHAsync(result, bench.out, bytes, other));
    OK(cuStreamSynchronize(other));
    CHECK(result[0] == 2.0f);
    OK(cuCtxSynchronize());
    CHECK(to_host<float>(bench.out, 1)[0] == 5.0f);
}

TEST(polling_comes_to_an_end, "lazy") {
    const Bench bench;
    CUevent start, end;
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    OK(cuEventQuery(end));
    OK(cuEventRecord(start, bench.stream));
    OK(bench.scale(bench.out, 2.0f));
    OK(cuEventRecord(end, bench.stream));
    float milliseconds = -1;
    EXPECT(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&milliseconds, start, end));
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(end));
    OK(cuEventQuery(end));
    OK(cuEventElapsedTime(&milliseconds, start, end));
    CHECK(milliseconds >= 0);
    OK(bench.scale(bench.out, 2.0f));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(bench.stream));
    OK(cuStreamQuery(bench.stream));
}

TEST(legacy_stream_orders_blocking_streams, "lazy") {
    const Bench bench;
    CUstream blocking;
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    OK(cuMemsetD32Async(bench.out, 7, count, blocking));
    CHECK(to_host<int>(bench.out, 1)[0] == 7);  // on the legacy stream
    OK(cuMemsetD32Async(bench.out, 8, count, bench.stream));
    CHECK(to_host<int>(bench.out, 1)[0] == 7);  // a stream that does not block is not waited for
}

static void capture_and_replay() {
    const Bench bench;
    float* source = pinned(1.0f);
    float factor = 2.0f;
    CUdeviceptr to = bench.out;
    OK(cuStreamBeginCapture(bench.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK(status(bench.stream) == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    OK(cuMemcpyHtoDAsync(bench.in, source, bytes, bench.stream));
    OK(bench.scale(to, factor));
    OK(cuMemsetD32Async(bench.out, 9, 1, bench.stream));
    factor = 100.0f;
    to = 0;
    const CUgraphExec graph = instantiate(bench.stream);
    CHECK(status(bench.stream) == CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK(to_host<float>(bench.out, count)[1] == 0.0f);  // recorded, not run
    for (const float value : {1.0f, 4.0f}) {
        for (unsigned i = 0; i < count; ++i) source[i] = value;
        OK(cuGraphLaunch(graph, bench.stream));
        OK(cuStreamSynchronize(bench.stream));
        const auto out = to_host<float>(bench.out, count);
        CHECK(to_host<int>(bench.out, 1)[0] == 9 && out[1] == 2 * value + 1 && out[511] == 2 * value + 511);
    }
    OK(cuGraphExecDestroy(graph));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(graph, bench.stream));
}

TEST(graphs, "") { capture_and_replay(); }
TEST(graphs_when_lazy, "lazy") { capture_and_replay(); }

TEST(captures_refuse_what_cannot_be_recorded, "") {
    const Bench bench;
    CUgraph graph;
    CUdeviceptr memory;
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuStreamBeginCapture(bench.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(bench.stream));
    CHECK(status(bench.stream) == CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, bench.scale(bench.out, 1.0f));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(bench.stream, &graph));
    for (const auto mode : {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL}) {
        OK(cuStreamBeginCapture(bench.stream, mode));
        EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&memory, 16));
        EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(bench.stream, &graph));
    }
    OK(cuStreamBeginCapture(bench.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuMemAlloc(&memory, 16));
    OK(cuStreamEndCapture(bench.stream, &graph));
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(bench.stream, &graph));
}

TEST(functions_are_looked_up, "") {
    open_device();
    CUmodule module;
    CUfunction found;
    OK(cuModuleLoadData(&module, ".version 7.0\n.visible .entry sum_blocks(\n"));
    OK(cuModuleGetFunction(&found, module, "sum_blocks"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&found, module, "exchange"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&found, module, "no_such_kernel"));
    OK(cuModuleUnload(module));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&found, module, "sum_blocks"));
}

static const unsigned char fatbin[] = {0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0};

TEST(machine_code_can_be_refused, "no-binary") {
    open_device();
    CUmodule module;
    EXPECT(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&module, fatbin));
    OK(cuModuleLoadData(&module, ".version 7.0\n"));
}

TEST(ptx_can_be_refused, "no-ptx") {
    open_device();
    CUmodule module;
    OK(cuModuleLoadData(&module, fatbin));
    EXPECT(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cuModuleLoadData(&module, ".version 7.0\n"));
}

TEST(no_device, "devices=0") {
    int number = 0;
    EXPECT(CUDA_ERROR_NO_DEVICE, cuInit(0));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&number));
}

TEST(busy_device, "busy") {
    CUcontext context;
    OK(cuInit(0));
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuDevicePrimaryCtxRetain(&context, 0));
}

TEST(device_is_described, "driver=11080,capability=75,name=a name") {
    int driver = 0, major = 0, minor = 0;
    char name[64];
    OK(cuDriverGetVersion(&driver));
    OK(cuInit(0));
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0));
    OK(cuDeviceGetName(name, sizeof name, 0));
    CHECK(driver == 11080 && major == 7 && minor == 5 && strcmp(name, "a name") == 0);
    CUdevice device;
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 1));
}

TEST(device_gets_lost, "lost-at=2") {
    const Bench bench;
    OK(bench.scale(bench.out, 2.0f));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, bench.scale(bench.out, 2.0f));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(bench.stream));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemFree(bench.out));
    const char* name = nullptr;
    OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name));
    CHECK(strcmp(name, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
}

TEST_ENDING(unknown_setting_ends_the_process, "lasy", 99) { cuInit(0); }

TEST(calls_need_a_context, "") {
    CUdeviceptr memory;
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc(&memory, 16));
    OK(cuInit(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&memory, 16));
}
