#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.hpp"
#include "machine/written_pages.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {

// One run of guest memory in this process. All in bytes.
struct GuestRegion {
    std::byte* host = nullptr;
    std::uint64_t guest_address = 0;
    std::uint64_t size_bytes = 0;
    std::uint64_t file_offset = 0;  // in a memory file

    [[nodiscard]] std::uint64_t host_address() const noexcept { return reinterpret_cast<std::uint64_t>(host); }
};

// A guest's memory, laid out as Firecracker does: on x86-64 one region up to 3 GiB, what is more from 4 GiB on (in a
// memory file the regions follow one another); on aarch64 one region from 2 GiB on, above the devices. The mappings
// never move, so any thread may read and write; what races is the caller's business. Factories throw SystemError and
// ArgumentError. Sizes: a multiple of 4096, 2 MiB to 64 GiB.
class GuestMemory {
public:
    // Zeros: private, not reserved, 2 MiB-aligned.
    [[nodiscard]] static std::shared_ptr<GuestMemory> anonymous(std::uint64_t size_bytes);
    // A private mapping of a memory file of at least that size: pages come from the page cache, writes stay here.
    [[nodiscard]] static std::shared_ptr<GuestMemory> map_file(const std::string& path, std::uint64_t size_bytes);
    // Memory of somebody else, one address for each region, page-aligned; `owner` keeps it.
    [[nodiscard]] static std::shared_ptr<GuestMemory> borrow(const std::vector<std::uint64_t>& host_addresses,
                                                             std::uint64_t size_bytes, std::shared_ptr<void> owner);
    // The regions of that much memory, without host addresses.
    [[nodiscard]] static std::vector<GuestRegion> layout(std::uint64_t size_bytes, GuestArch arch = kHostArch);

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
    [[nodiscard]] const std::vector<GuestRegion>& regions() const noexcept { return regions_; }
    // The host's view of a range that lies within one region. Throws ArgumentError. See mark_written().
    [[nodiscard]] std::span<std::byte> at(std::uint64_t guest_address, std::uint64_t size_bytes) const;
    // Copies; a range may not cross the gap. A missing page blocks until it is served. Throw ArgumentError.
    void read(std::uint64_t guest_address, std::span<std::byte> out) const;
    void write(std::uint64_t guest_address, std::span<const std::byte> bytes) const;
    // A store of the guest's own that the host makes in its stead: what is aligned arrives in one piece, as other vCPUs
    // would see it. False outside the regions.
    [[nodiscard]] bool store(std::uint64_t guest_address, std::span<const std::uint8_t> bytes) const noexcept;
    // Tells of bytes that somebody wrote through at() or the mapping itself, afterwards: a diff snapshot must have
    // them.
    void mark_written(std::uint64_t guest_address, std::uint64_t size_bytes) const;
    [[nodiscard]] WrittenPages& written() const noexcept { return *written_; }
    // The page's number in a memory file; nothing outside the memory.
    [[nodiscard]] std::optional<std::uint64_t> page_of(std::uint64_t guest_address) const noexcept;

private:
    explicit GuestMemory(std::uint64_t size_bytes);
    // Null for a range that does not lie within one region.
    [[nodiscard]] std::byte* find(std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept;
    void mark(std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept;  // of a range within one region

    std::uint64_t size_bytes_ = 0;
    std::vector<GuestRegion> regions_;
    std::vector<Mapping> mappings_;
    std::unique_ptr<WrittenPages> written_;
    std::shared_ptr<void> owner_;
};

}  // namespace vmthaw
