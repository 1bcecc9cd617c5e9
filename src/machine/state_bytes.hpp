#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"

// The kernel's structures as the bytes that a state keeps, and back.
namespace vmthaw {

template <typename Value>
[[nodiscard]] std::vector<std::byte> bytes_of_value(const Value& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    return {bytes.begin(), bytes.end()};
}

// Throws ArgumentError with the name when the size is another.
template <typename Value>
[[nodiscard]] Value value_of_bytes(std::span<const std::byte> bytes, const char* name) {
    Value value{};
    if (bytes.size() != sizeof value) {
        throw ArgumentError(std::string("the state has no ") + name);
    }
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

}  // namespace vmthaw
