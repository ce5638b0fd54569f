// Runs the tests, each in a process of its own; names on the command line choose some. See self_test.h.
#include "self_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

void open_device() {
    CUdevice device;
    CUcontext context;
    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
}

CUstream open_stream() {
    open_device();
    CUstream stream;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    return stream;
}

CUfunction function(const char* name) {
    static CUmodule module = nullptr;
    CUfunction result;
    if (module == nullptr) OK(cuModuleLoadData(&module, ".version 7.0\n"));
    OK(cuModuleGetFunction(&result, module, name));
    return result;
}

static void print_all(FILE* file) {
    rewind(file);
    for (int byte; (byte = getc(file)) != EOF;) putchar(byte);
}

// What a test says on its standard error output is shown only when it fails: most tests provoke complaints.
static bool run(const Test& test) {
    FILE* complaints = tmpfile();
    CHECK(complaints != nullptr);
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        dup2(fileno(complaints), STDERR_FILENO);
        setenv("PDAC_SOFTWARE_DEVICE", test.settings, 1);
        test.body();
        exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    const bool passed = WIFEXITED(status) && WEXITSTATUS(status) == test.expected_status;
    printf("%-40s %s", test.name, passed ? "ok\n" : "FAILED, ");
    if (!passed) {
        printf("wait status %#x, expected exit %d\n", status, test.expected_status);
        print_all(complaints);
    }
    fclose(complaints);
    return passed;
}

int main(int count, char** names) {
    int failed = 0;
    int ran = 0;
    for (const Test& test : tests()) {
        const bool chosen = count == 1 || std::any_of(names + 1, names + count,
                                                      [&](const char* name) { return strcmp(name, test.name) == 0; });
        if (!chosen) continue;
        ran += 1;
        failed += !run(test);
    }
    printf("%d tests, %d failed\n", ran, failed);
    return failed == 0 && ran > 0 ? 0 : 1;
}
