#include "fuse_protocol/request_reader.hpp"

#include <cerrno>

namespace vmthaw {

RequestReader::RequestReader(std::span<const std::byte> request) noexcept : rest_(request) {
    if (request.size() < sizeof header_) {
        fail(EINVAL, "header");
        return;
    }
    header_ = take<FuseInHeader>("header");
    has_header_ = true;
    if (header_.len != request.size()) {
        fail(EINVAL, "len");
        return;
    }
    const std::size_t extension_bytes = std::size_t{header_.total_extlen} * 8;
    if (extension_bytes > rest_.size()) {
        fail(EINVAL, "total_extlen");
        return;
    }
    rest_ = rest_.first(rest_.size() - extension_bytes);
}

void RequestReader::fail(int error, const char* field) noexcept {
    if (error_ == 0) {
        error_ = error;
        field_ = field;
    }
    rest_ = {};
}

std::span<const std::byte> RequestReader::take_bytes(std::uint64_t count, const char* field) noexcept {
    if (error_ != 0 || count > rest_.size()) {
        fail(EINVAL, field);
        return {};
    }
    const std::span<const std::byte> taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(taken.size());
    return taken;
}

std::string_view RequestReader::take_text(std::size_t limit_bytes, const char* field) noexcept {
    const void* end = rest_.empty() ? nullptr : std::memchr(rest_.data(), 0, rest_.size());
    if (end == nullptr) {
        fail(EINVAL, field);
        return {};
    }
    const auto length = static_cast<std::size_t>(static_cast<const std::byte*>(end) - rest_.data());
    if (length == 0) {
        fail(ENOENT, field);
        return {};
    }
    if (length > limit_bytes) {
        fail(ENAMETOOLONG, field);
        return {};
    }
    // std::byte and char may alias anything, each other included.
    const std::string_view text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length + 1);
    return text;
}

std::string_view RequestReader::take_lookup_name(const char* field) noexcept {
    const std::string_view name = take_text(kFuseNameMax_bytes, field);
    if (name.find('/') != std::string_view::npos) {
        fail(EINVAL, field);
        return {};
    }
    return name;
}

std::string_view RequestReader::take_name(const char* field) noexcept {
    const std::string_view name = take_lookup_name(field);
    if (name == "." || name == "..") {
        fail(EINVAL, field);
        return {};
    }
    return name;
}

void RequestReader::expect_end(const char* field) noexcept {
    if (!rest_.empty()) {
        fail(EINVAL, field);
    }
}

}  // namespace vmthaw
