// A harness of a few lines: every test runs in a process of its own, with its own PDAC_SOFTWARE_DEVICE, because the
// device reads it once and a broken device stays broken.
#pragma once

#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct Test {
    const char* name;
    const char* settings;
    int expected_status;
    void (*body)();
};

std::vector<Test>& tests();

struct Register {
    Register(const char* name, const char* settings, int expected_status, void (*body)()) {
        tests().push_back({name, settings, expected_status, body});
    }
};

// A test of the given name under the given settings; TEST_ENDING expects the process to end with a status.
#define TEST(name, settings) TEST_ENDING(name, settings, 0)
#define TEST_ENDING(name, settings, status)                           \
    static void name();                                               \
    static const Register register_##name(#name, settings, status, name); \
    static void name()

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            _Exit(1);                                                           \
        }                                                                       \
    } while (false)

#define EXPECT(expected, call)                                                                            \
    do {                                                                                                  \
        const int got_status = static_cast<int>(call);                                                    \
        if (got_status != static_cast<int>(expected)) {                                                   \
            fprintf(stderr, "%s:%d: %s is %d, expected %s\n", __FILE__, __LINE__, #call, got_status, #expected); \
            _Exit(1);                                                                                     \
        }                                                                                                 \
    } while (false)

#define OK(call) EXPECT(0, call)

// Makes the device's context current.
void open_device();

CUstream open_stream();

CUfunction function(const char* name);

template <class... A>
CUresult launch(const char* name, CUstream stream, unsigned blocks, unsigned threads, unsigned shared, A... arguments) {
    void* pointers[] = {&arguments..., nullptr};
    return cuLaunchKernel(function(name), blocks, 1, 1, threads, 1, 1, shared, stream, pointers, nullptr);
}

// An array on the device and back.
template <class T>
CUdeviceptr to_device(const std::vector<T>& values) {
    CUdeviceptr address = 0;
    OK(cuMemAlloc(&address, values.size() * sizeof(T)));
    OK(cuMemcpyHtoD(address, values.data(), values.size() * sizeof(T)));
    return address;
}

template <class T>
std::vector<T> to_host(CUdeviceptr address, size_t count) {
    std::vector<T> values(count);
    OK(cuMemcpyDtoH(values.data(), address, count * sizeof(T)));
    return values;
}
