// Tests of kernels on the software device: threads, barriers, exchanges, shared memory, and what must be refused.
#include <cmath>

#include "half_floats.h"
#include "self_test.h"

TEST(threads_without_barriers, "") {
    const CUstream stream = open_stream();
    const CUdeviceptr a = to_device(std::vector<float>(1000, 2.0f));
    const CUdeviceptr out = to_device(std::vector<float>(1000, 0.0f));
    OK(launch("scale_and_count", stream, 4, 256, 0, a, out, 3.0f, 1000u));
    OK(cuStreamSynchronize(stream));
    const auto values = to_host<float>(out, 1000);
    for (int i = 0; i < 1000; ++i) CHECK(values[i] == 6.0f + static_cast<float>(i));
}

static void sum_on_device() {
    const CUstream stream = open_stream();
    std::vector<uint16_t> halves(256 * 50);
    std::vector<float> expected(50, 0.0f);
    for (size_t i = 0; i < halves.size(); ++i) {
        halves[i] = software_device::float_to_half(static_cast<float>(i % 17));
        expected[i / 256] += static_cast<float>(i % 17);
    }
    const CUdeviceptr values = to_device(halves);
    const CUdeviceptr sums = to_device(std::vector<float>(50));
    const CUdeviceptr total = to_device(std::vector<int>{0});
    OK(launch("sum_blocks", stream, 50, 256, 0, values, sums, total));
    OK(cuStreamSynchronize(stream));
    CHECK(to_host<float>(sums, 50) == expected);
    CHECK(to_host<int>(total, 1)[0] == 50 * 256);
}

TEST(block_sums, "") { sum_on_device(); }
TEST(block_sums_on_one_thread, "threads=1") { sum_on_device(); }
TEST(block_sums_on_four_threads, "threads=4") { sum_on_device(); }

TEST(dynamic_shared_memory, "") {
    const CUstream stream = open_stream();
    std::vector<float> numbers(96 * 3);
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
    const CUdeviceptr values = to_device(numbers);
    OK(launch("reverse_blocks", stream, 3, 96, 96 * 4, values));
    OK(cuStreamSynchronize(stream));
    const auto reversed = to_host<float>(values, numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) CHECK(reversed[i] == numbers[i / 96 * 96 + 95 - i % 96]);
}

TEST(missing_barrier_shows, "") {
    const CUstream stream = open_stream();
    const CUdeviceptr values = to_device(std::vector<float>(64, 1.0f));
    OK(launch("reverse_too_early", stream, 2, 32, 32 * 4, values));
    OK(cuStreamSynchronize(stream));
    const auto got = to_host<float>(values, 64);
    // Whichever way a block's threads run, half of them come too early.
    CHECK(std::isnan(got[0]) && std::isnan(got[32 + 31]));
}

TEST(shared_memory_is_poisoned, "threads=1") {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<float>(5, 0.0f));
    OK(launch("read_unwritten", stream, 5, 64, 0, out));
    OK(cuStreamSynchronize(stream));
    for (const float value : to_host<float>(out, 5)) CHECK(std::isnan(value));
}

TEST(exchanges_within_a_warp, "") {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<int>(208, -1));
    OK(launch("exchange", stream, 1, 32, 0, out));
    OK(cuStreamSynchronize(stream));
    const auto got = to_host<int>(out, 208);
    for (int lane = 0; lane < 32; ++lane) {
        CHECK(got[lane] == (lane ^ 1));
        CHECK(got[32 + lane] == 5);
        CHECK(got[64 + lane] == (lane < 3 ? lane : lane - 3));
        CHECK(got[96 + lane] == (lane % 8 < 5 ? lane + 3 : lane));
        CHECK(static_cast<unsigned>(got[128 + lane]) == 0x49249249u);
        CHECK(got[160 + lane] == 1);
        if (lane < 16) CHECK(got[192 + lane] == (lane ^ 8));
    }
}

TEST(atomic_updates, "threads=4") {
    const CUstream stream = open_stream();
    const CUdeviceptr numbers = to_device(std::vector<unsigned>{1000, 0, 0, 0});
    const CUdeviceptr sum = to_device(std::vector<float>{0});
    OK(launch("atomics", stream, 64, 128, 0, numbers, sum));
    OK(cuStreamSynchronize(stream));
    CHECK((to_host<unsigned>(numbers, 4) == std::vector<unsigned>{7, 127, 64 * 128, 42}));
    CHECK(to_host<float>(sum, 1)[0] == 64 * 128 * 0.5f);
}

static void expect_failed_launch(const char* kernel, unsigned threads) {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<int>(64, 0));
    EXPECT(CUDA_ERROR_LAUNCH_FAILED, launch(kernel, stream, 1, threads, 64, out));
    EXPECT(CUDA_ERROR_LAUNCH_FAILED, cuStreamSynchronize(stream));
    CUdeviceptr more;
    EXPECT(CUDA_ERROR_LAUNCH_FAILED, cuMemAlloc(&more, 16));
}

TEST(divergent_barrier_is_detected, "") { expect_failed_launch("barrier_for_half", 32); }
TEST(divergent_shuffle_is_detected, "") { expect_failed_launch("shuffle_for_half", 32); }
TEST(shuffle_from_ended_lane_is_detected, "") { expect_failed_launch("read_ended_lane", 32); }
TEST(write_past_dynamic_shared_is_detected, "") { expect_failed_launch("past_dynamic_shared", 32); }

TEST(failed_launch_shows_late_when_lazy, "lazy") {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<int>(64, 0));
    OK(launch("barrier_for_half", stream, 1, 32, 0, out));
    EXPECT(CUDA_ERROR_LAUNCH_FAILED, cuStreamSynchronize(stream));
}

TEST_ENDING(write_past_memory_breaks_a_guard, "", 99) {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<float>(10, 0.0f));
    OK(launch("past_the_end", stream, 1, 1, 0, out, 10u));
    OK(cuStreamSynchronize(stream));
    OK(cuMemFree(out));
    CHECK(false);
}

TEST_ENDING(write_past_memory_shows_at_exit, "", 99) {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<float>(10, 0.0f));
    OK(launch("past_the_end", stream, 1, 1, 0, out, 10u));
    OK(cuStreamSynchronize(stream));
}

TEST_ENDING(check_guards_names_the_kernel, "check-guards", 99) {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<float>(10, 0.0f));
    OK(launch("past_the_end", stream, 1, 1, 0, out, 10u));
    CHECK(false);
}

TEST(launches_are_checked, "") {
    const CUstream stream = open_stream();
    const CUdeviceptr out = to_device(std::vector<float>(2000, 0.0f));
    EXPECT(CUDA_ERROR_INVALID_VALUE, launch("past_the_end", stream, 1, 1025, 0, out, 1u));
    EXPECT(CUDA_ERROR_INVALID_VALUE, launch("past_the_end", stream, 0, 32, 0, out, 1u));
    EXPECT(CUDA_ERROR_INVALID_VALUE, launch("past_the_end", stream, 1, 32, 60 * 1024, out, 1u));
    OK(cuFuncSetAttribute(function("past_the_end"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60 * 1024));
    OK(launch("past_the_end", stream, 1, 32, 60 * 1024, out, 1u));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, launch("past_the_end", reinterpret_cast<CUstream>(0x1234), 1, 1, 0, out, 1u));
}
