#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "fuse_protocol/fuse_requests.hpp"

namespace vmthaw {

// Limits of what a request may name; Linux's own.
inline constexpr std::size_t kFuseNameMax_bytes = 255;
inline constexpr std::size_t kFusePathMax_bytes = 4095;

// Reads one request from front to back, never past its end. The first thing that does not hold together sticks: what is
// taken afterwards is empty, and error() and field() say what it was. Owns nothing; the bytes must not change
// meanwhile.
class RequestReader {
public:
    // Takes the header: its length must be that of the bytes, and its extensions (left out of what follows) within.
    explicit RequestReader(std::span<const std::byte> request) noexcept;

    // false: not even a header is there, so nobody can be answered.
    [[nodiscard]] bool has_header() const noexcept { return has_header_; }
    [[nodiscard]] const FuseInHeader& header() const noexcept { return header_; }
    // 0, or the positive errno to answer with, and a literal that names the field.
    [[nodiscard]] int error() const noexcept { return error_; }
    [[nodiscard]] const char* field() const noexcept { return field_; }

    // A structure, wherever it lies; zeros when it is not all there.
    template <typename Structure>
    [[nodiscard]] Structure take(const char* field) noexcept {
        static_assert(std::is_trivially_copyable_v<Structure>);
        Structure structure{};
        const std::span<const std::byte> bytes = take_bytes(sizeof structure, field);
        if (!bytes.empty()) {
            std::memcpy(&structure, bytes.data(), sizeof structure);
        }
        return structure;
    }
    // A name of a directory's entry: 1 to 255 bytes, no '/', neither "." nor "..", a NUL behind it.
    [[nodiscard]] std::string_view take_name(const char* field) noexcept;
    // What lookup may name besides: "." and "..".
    [[nodiscard]] std::string_view take_lookup_name(const char* field) noexcept;
    // Any text of 1 to `limit_bytes` bytes with a NUL behind it; ENAMETOOLONG beyond.
    [[nodiscard]] std::string_view take_text(std::size_t limit_bytes, const char* field) noexcept;
    [[nodiscard]] std::span<const std::byte> take_bytes(std::uint64_t count, const char* field) noexcept;
    // Everything that is left, not taken.
    [[nodiscard]] std::span<const std::byte> rest() const noexcept { return rest_; }
    // Bytes behind what was asked for are an error: a name with a NUL in it, for one.
    void expect_end(const char* field) noexcept;
    void fail(int error, const char* field) noexcept;

private:
    std::span<const std::byte> rest_;
    FuseInHeader header_;
    const char* field_ = "";
    int error_ = 0;
    bool has_header_ = false;
};

}  // namespace vmthaw
