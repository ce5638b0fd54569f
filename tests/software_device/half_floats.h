// Half precision as bits, to and from float, as the hardware rounds (to the nearest, ties to even).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace software_device {

inline float exact_half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31;
    const int fraction = half & 1023;
    float magnitude = 0;
    if (exponent == 31) {
        magnitude = fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(fraction), -24);
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return half & 0x8000 ? -magnitude : magnitude;
}

inline float half_to_float(uint16_t half) {
    static const std::vector<float>& table = *[] {
        auto* floats = new std::vector<float>(65536);
        for (unsigned i = 0; i < 65536; ++i) (*floats)[i] = exact_half_to_float(static_cast<uint16_t>(i));
        return floats;
    }();
    return table[half];
}

inline uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7FFF;
    if (magnitude >= 65520.0f) return sign | 0x7C00;
    // Below 2^-14 a half's steps are 2^-24 wide, which the sum with 0.5 rounds to.
    if (magnitude < 6.103515625e-5f) {
        const float sum = magnitude + 0.5f;
        memcpy(&bits, &sum, sizeof bits);
        return static_cast<uint16_t>(sign | (bits - 0x3F000000u));
    }
    bits &= 0x7FFFFFFFu;
    const uint32_t rounded = bits + 0xFFF + (bits >> 13 & 1);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

}  // namespace software_device
