#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace vmthaw {

// Little-endian values out of untrusted bytes, one after another. What is not there is a null or false; nothing is
// skipped then. Borrows the bytes.
class ByteCursor {
public:
    explicit ByteCursor(std::span<const std::byte> bytes) noexcept : rest_(bytes) {}

    [[nodiscard]] std::size_t left() const noexcept { return rest_.size(); }
    [[nodiscard]] std::span<const std::byte> rest() const noexcept { return rest_; }

    // A trivially copyable value as it lies there: numbers are little-endian, as every processor of ours is.
    template <typename Value>
    [[nodiscard]] bool take(Value& value) noexcept {
        static_assert(std::endian::native == std::endian::little);
        if (rest_.size() < sizeof(Value)) {
            return false;
        }
        std::memcpy(&value, rest_.data(), sizeof(Value));
        rest_ = rest_.subspan(sizeof(Value));
        return true;
    }

    // An unsigned LEB128 of at most five bytes. False when it is cut or longer.
    [[nodiscard]] bool take_leb128(std::uint64_t& value) noexcept {
        constexpr std::size_t kMostBytes = 5;
        value = 0;
        for (std::size_t i = 0; i < kMostBytes && i < rest_.size(); ++i) {
            const auto byte = std::to_integer<std::uint64_t>(rest_[i]);
            value |= (byte & 0x7fU) << (7 * i);
            if (byte < 0x80U) {
                rest_ = rest_.subspan(i + 1);
                return true;
            }
        }
        return false;
    }

private:
    std::span<const std::byte> rest_;
};

}  // namespace vmthaw
