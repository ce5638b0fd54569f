// Reads PDAC_SOFTWARE_DEVICE; see faults.h. A word that is not known ends the process: a fault that silently does
// not happen would be a test that cannot fail.
#include "faults.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>

namespace software_device {

namespace {

void print_line(const char* format, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    fprintf(stderr, "software device: %s\n", text);
}

uint64_t number(const std::string& word, const std::string& value) {
    char* end = nullptr;
    const uint64_t result = strtoull(value.c_str(), &end, 10);
    if (value.empty() || *end != '\0') {
        give_up("PDAC_SOFTWARE_DEVICE: `%s` needs a number, got `%s`", word.c_str(), value.c_str());
    }
    return result;
}

size_t cudnn_version(uint64_t value) {
    if (value == 8) return 8902;
    if (value == 9) return 91002;
    return value;
}

using Setter = std::function<void(Settings&, const std::string& value)>;

std::map<std::string, Setter> flags() {
    return {
        {"no-binary", [](Settings& s, auto&) { s.no_binary = true; }},
        {"no-ptx", [](Settings& s, auto&) { s.no_ptx = true; }},
        {"busy", [](Settings& s, auto&) { s.busy = true; }},
        {"exclusive", [](Settings& s, auto&) { s.busy = true; }},
        {"lazy", [](Settings& s, auto&) { s.lazy = true; }},
        {"log", [](Settings& s, auto&) { s.log = true; }},
        {"check-guards", [](Settings& s, auto&) { s.check_guards = true; }},
    };
}

std::map<std::string, Setter> values() {
    return {
        {"devices", [](Settings& s, auto& v) { s.devices = number("devices", v) != 0; }},
        {"driver", [](Settings& s, auto& v) { s.driver = static_cast<int>(number("driver", v)); }},
        {"memory", [](Settings& s, auto& v) { s.memory = number("memory", v); }},
        {"free", [](Settings& s, auto& v) { s.free = number("free", v); }},
        {"oom-at", [](Settings& s, auto& v) { s.oom_at = number("oom-at", v); }},
        {"lost-at", [](Settings& s, auto& v) { s.lost_at = number("lost-at", v); }},
        {"capability", [](Settings& s, auto& v) { s.capability = static_cast<int>(number("capability", v)); }},
        {"cudnn", [](Settings& s, auto& v) { s.cudnn = cudnn_version(number("cudnn", v)); }},
        {"conv-unsupported",
         [](Settings& s, auto& v) { s.conv_unsupported.insert(static_cast<int>(number("conv-unsupported", v))); }},
        {"name", [](Settings& s, auto& v) { s.name = v; }},
        {"threads", [](Settings& s, auto& v) { s.threads = static_cast<unsigned>(number("threads", v)); }},
    };
}

Settings read_settings() {
    Settings result;
    const char* text = getenv("PDAC_SOFTWARE_DEVICE");
    std::stringstream words(text ? text : "");
    for (std::string word; std::getline(words, word, ',');) {
        if (word.empty()) continue;
        const size_t equals = word.find('=');
        const std::string name = word.substr(0, equals);
        const bool has_value = equals != std::string::npos;
        const auto known = has_value ? values() : flags();
        const auto setter = known.find(name);
        if (setter == known.end()) {
            give_up("PDAC_SOFTWARE_DEVICE: `%s` is not a setting (see tests/software_device/README.md)", word.c_str());
        }
        setter->second(result, has_value ? word.substr(equals + 1) : "");
    }
    if (result.threads < 1 || result.threads > 64) give_up("PDAC_SOFTWARE_DEVICE: `threads` must be 1 to 64");
    return result;
}

}  // namespace

const Settings& settings() {
    // Never destroyed: calls may come while the process ends.
    static const Settings& read_once = *new Settings(read_settings());
    return read_once;
}

void complain(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments);
    va_end(arguments);
}

void give_up(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments);
    va_end(arguments);
    _exit(99);
}

}  // namespace software_device
