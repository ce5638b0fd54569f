// What the tests ask of the device: the environment variable PDAC_SOFTWARE_DEVICE, a comma-separated list that makes
// the device smaller, older, slower to start work, or broken. README.md lists the words. Read once, at first use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

namespace software_device {

struct Settings {
    int devices = 1;
    int driver = 12040;
    bool no_binary = false;
    bool no_ptx = false;
    size_t memory = size_t{1} << 30;
    std::optional<size_t> free;
    uint64_t oom_at = 0;
    uint64_t lost_at = 0;
    bool busy = false;
    int capability = 86;
    size_t cudnn = 91002;
    bool lazy = false;
    bool log = false;
    bool check_guards = false;
    std::set<int> conv_unsupported;
    std::string name = "software device";
    unsigned threads = 2;
};

const Settings& settings();

// Ends the process with status 99: the program broke a rule that a real device would punish with wrong numbers.
[[noreturn]] void give_up(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One line to the standard error output, whatever the settings.
void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace software_device
