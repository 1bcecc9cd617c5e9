#include "dax/window_mapper.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/page.hpp"
#include "dax/guarded_copy.hpp"
#include "filesystem/dax_backend.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kWindowAlignment = 2U << 20U;  // for huge pages
constexpr int kHoleFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

Mapping reserve_window(std::uint64_t guest_base, std::uint64_t bytes) {
    if (bytes == 0 || bytes % kPageBytes != 0 || guest_base % kPageBytes != 0 ||
        bytes > std::numeric_limits<std::uint64_t>::max() - guest_base - kWindowAlignment) {
        throw ArgumentError("window of " + std::to_string(bytes) + " bytes at " + hex(guest_base) +
                            ": both must be multiples of 4096, the size not 0, and the end within 2^64");
    }
    return Mapping::map(bytes + kWindowAlignment, PROT_NONE, kHoleFlags, -1, 0, "mmap(DAX window)");
}

int mmap_at(std::byte* place, std::uint64_t length, int protection, int flags, int fd, std::uint64_t offset) noexcept {
    return ::mmap(place, length, protection, flags | MAP_FIXED, fd, static_cast<off_t>(offset)) == MAP_FAILED ? errno
                                                                                                              : 0;
}

}  // namespace

WindowMapper::WindowMapper(std::uint64_t guest_base, std::uint64_t window_bytes)
    : guest_base_(guest_base), window_bytes_(window_bytes), reserved_(reserve_window(guest_base, window_bytes)) {
    const auto start = reinterpret_cast<std::uint64_t>(reserved_.data());
    host_ = reserved_.data() + (round_up(start, kWindowAlignment) - start);
}

std::byte* WindowMapper::host_at(std::uint64_t guest_address, std::uint64_t length_bytes) const noexcept {
    if (guest_address < guest_base_ || guest_address - guest_base_ > window_bytes_ ||
        length_bytes > window_bytes_ - (guest_address - guest_base_)) {
        return nullptr;
    }
    return host_ + (guest_address - guest_base_);
}

int WindowMapper::map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
    std::byte* const place = host_at(guest_address, lease.length_bytes);
    if (place == nullptr) {
        return EINVAL;
    }
    const int protection = PROT_READ | ((prot & kDaxWrite) != 0 ? PROT_WRITE : 0);
    const int error = mmap_at(place, lease.length_bytes, protection, MAP_SHARED, lease.fd, lease.offset_bytes);
    if (error != 0) {
        static_cast<void>(close_gaps(place, lease.length_bytes));
    }
    return error;
}

// Kernels before 6.12 unmap what is there before the file can refuse (a sealed memfd does): what is nobody's now would
// be given to the next mmap of this process, and the guest would see that.
bool WindowMapper::close_gaps(std::byte* start, std::uint64_t length) const noexcept {
    constexpr std::uint64_t kChunk = 256 * kPageBytes;
    std::array<unsigned char, 256> resident{};
    bool closed = true;
    for (std::uint64_t at = 0; at < length; at += kChunk) {
        const std::uint64_t bytes = std::min(kChunk, length - at);
        if (::mincore(start + at, bytes, resident.data()) != 0 && errno == ENOMEM) {
            closed = mmap_at(start + at, bytes, PROT_NONE, kHoleFlags, -1, 0) == 0 && closed;
        }
    }
    return closed;
}

int WindowMapper::restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
    return map(guest_address, lease, prot);
}

int WindowMapper::unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept {
    std::byte* const place = host_at(guest_address, length_bytes);
    return place == nullptr ? EINVAL : mmap_at(place, length_bytes, PROT_NONE, kHoleFlags, -1, 0);
}

int WindowMapper::read(std::uint64_t guest_address, std::span<std::byte> out) const noexcept {
    std::byte* const place = host_at(guest_address, out.size());
    return place == nullptr ? EINVAL : guarded_read(place, out);
}

int WindowMapper::write(std::uint64_t guest_address, std::span<const std::byte> bytes) const noexcept {
    std::byte* const place = host_at(guest_address, bytes.size());
    return place == nullptr ? EINVAL : guarded_write(place, bytes);
}

}  // namespace vmthaw
