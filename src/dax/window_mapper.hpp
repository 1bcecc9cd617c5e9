#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.hpp"
#include "dax/dax_mapper.hpp"

namespace vmthaw {

// One reserved run of this process's addresses, 2 MiB-aligned, that is the guest's window in one memory slot: files are
// mapped into it, PROT_NONE is a hole. It must outlive the slot. Any thread. Whoever follows a pointer into the window
// gets SIGSEGV in a hole and SIGBUS past a file's end: read() and write() do not, and better still is the file itself.
class WindowMapper final : public DaxMapper {
public:
    // Throws SystemError (ENOMEM beyond RLIMIT_AS) and ArgumentError for sizes that are no multiple of 4096.
    WindowMapper(std::uint64_t guest_base, std::uint64_t window_bytes);

    [[nodiscard]] int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override;
    [[nodiscard]] int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept override;
    [[nodiscard]] int restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override;

    [[nodiscard]] std::uint64_t guest_base() const noexcept { return guest_base_; }
    [[nodiscard]] std::uint64_t window_bytes() const noexcept { return window_bytes_; }
    [[nodiscard]] std::uint64_t host_address() const noexcept { return reinterpret_cast<std::uint64_t>(host_); }
    // The host's view of a guest range, for addresses in virtqueue descriptors; null outside the window.
    [[nodiscard]] std::byte* host_at(std::uint64_t guest_address, std::uint64_t length_bytes) const noexcept;
    // Copies through the window as the guest would see it: 0, EINVAL outside the window, EFAULT where there is a hole,
    // no more file, or no permission to write.
    [[nodiscard]] int read(std::uint64_t guest_address, std::span<std::byte> out) const noexcept;
    [[nodiscard]] int write(std::uint64_t guest_address, std::span<const std::byte> bytes) const noexcept;

private:
    [[nodiscard]] bool close_gaps(std::byte* start, std::uint64_t length) const noexcept;

    std::uint64_t guest_base_;
    std::uint64_t window_bytes_;
    Mapping reserved_;
    std::byte* host_ = nullptr;
};

}  // namespace vmthaw
