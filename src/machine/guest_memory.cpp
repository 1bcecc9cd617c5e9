#include "machine/guest_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "base/page.hpp"
#include "base/unique_fd.hpp"
#include "machine/payload/mailbox.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kAlignment = 2U << 20U;  // for huge pages
constexpr std::uint64_t kSmallest = 2U << 20U;
constexpr std::uint64_t kLargest = std::uint64_t{64} << 30U;
constexpr std::uint64_t kAarch64Start = std::uint64_t{2} << 30U;

// `size` bytes at an address that is a multiple of 2 MiB, of which the caller's mmap takes the place.
std::byte* reserve_aligned(std::uint64_t size) {
    void* const found =
        ::mmap(nullptr, size + kAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) {
        const int saved = errno;
        throw SystemError(saved, "mmap(guest memory)", "raise RLIMIT_AS (ulimit -v)");
    }
    auto* const start = static_cast<std::byte*>(found);
    const std::uint64_t head = (kAlignment - reinterpret_cast<std::uint64_t>(start) % kAlignment) % kAlignment;
    if (head > 0) {
        ::munmap(start, head);
    }
    if (head < kAlignment) {
        ::munmap(start + head + size, kAlignment - head);
    }
    return start + head;
}

// JUSTIFICATION: no object of a C++ type lies in guest memory; the built-in accesses it as the hardware does.
template <typename Word>
void store_word(std::byte* to, std::span<const std::uint8_t> bytes) noexcept {
    Word word = 0;
    std::memcpy(&word, bytes.data(), sizeof word);
    __atomic_store_n(reinterpret_cast<Word*>(to), word, __ATOMIC_RELEASE);
}

Mapping map_region(std::uint64_t size, int flags, int fd, std::uint64_t offset) {
    Mapping reserved = Mapping::adopt(reserve_aligned(size), size);
    void* const mapped = ::mmap(reserved.data(), size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_NORESERVE | flags, fd,
                                static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) {
        const int saved = errno;
        throw SystemError(saved, "mmap(guest memory)");
    }
    return reserved;
}

}  // namespace

GuestMemory::GuestMemory(std::uint64_t size_bytes)
    : size_bytes_(size_bytes),
      regions_(layout(size_bytes)),
      written_(std::make_unique<WrittenPages>(size_bytes / kPageBytes)) {}

std::vector<GuestRegion> GuestMemory::layout(std::uint64_t size_bytes, GuestArch arch) {
    if (size_bytes % kPageBytes != 0 || size_bytes < kSmallest || size_bytes > kLargest) {
        throw ArgumentError("guest memory of " + std::to_string(size_bytes) +
                            " bytes: it must be a multiple of 4096, at least 2 MiB and at most 64 GiB");
    }
    if (arch == GuestArch::aarch64) {
        return {{nullptr, kAarch64Start, size_bytes, 0}};
    }
    const std::uint64_t low = std::min<std::uint64_t>(size_bytes, payload::kGapStart);
    std::vector<GuestRegion> regions{{nullptr, 0, low, 0}};
    if (size_bytes > low) {
        regions.push_back({nullptr, low + payload::kGapBytes, size_bytes - low, low});
    }
    return regions;
}

std::shared_ptr<GuestMemory> GuestMemory::anonymous(std::uint64_t size_bytes) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory(size_bytes));
    for (GuestRegion& region : memory->regions_) {
        memory->mappings_.push_back(map_region(region.size_bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        region.host = memory->mappings_.back().data();
    }
    return memory;
}

std::shared_ptr<GuestMemory> GuestMemory::map_file(const std::string& path, std::uint64_t size_bytes) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory(size_bytes));
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat found{};
    if (!fd || ::fstat(fd.get(), &found) != 0) {
        const int saved = errno;
        throw SystemError(saved, "opening the memory file " + path);
    }
    if (static_cast<std::uint64_t>(found.st_size) < size_bytes) {
        throw ArgumentError("the memory file " + path + " has " + std::to_string(found.st_size) + " bytes of " +
                            std::to_string(size_bytes));
    }
    for (GuestRegion& region : memory->regions_) {
        memory->mappings_.push_back(map_region(region.size_bytes, MAP_PRIVATE, fd.get(), region.file_offset));
        region.host = memory->mappings_.back().data();
    }
    return memory;
}

std::shared_ptr<GuestMemory> GuestMemory::borrow(const std::vector<std::uint64_t>& host_addresses,
                                                 std::uint64_t size_bytes, std::shared_ptr<void> owner) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory(size_bytes));
    if (host_addresses.size() != memory->regions_.size()) {
        throw ArgumentError("guest memory of " + std::to_string(size_bytes) + " bytes has " +
                            std::to_string(memory->regions_.size()) + " regions, not " +
                            std::to_string(host_addresses.size()));
    }
    for (std::size_t i = 0; i < host_addresses.size(); ++i) {
        if (host_addresses[i] == 0 || host_addresses[i] % kPageBytes != 0) {
            throw ArgumentError("host address " + hex(host_addresses[i]) + " is not a multiple of 4096, or 0");
        }
        memory->regions_[i].host = reinterpret_cast<std::byte*>(host_addresses[i]);
    }
    memory->owner_ = std::move(owner);
    return memory;
}

std::byte* GuestMemory::find(std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept {
    for (const GuestRegion& region : regions_) {
        if (guest_address >= region.guest_address && guest_address - region.guest_address <= region.size_bytes &&
            size_bytes <= region.size_bytes - (guest_address - region.guest_address)) {
            return region.host + (guest_address - region.guest_address);
        }
    }
    return nullptr;
}

std::span<std::byte> GuestMemory::at(std::uint64_t guest_address, std::uint64_t size_bytes) const {
    if (std::byte* const host = find(guest_address, size_bytes); host != nullptr) {
        return {host, size_bytes};
    }
    throw ArgumentError(std::to_string(size_bytes) + " bytes at guest address " + hex(guest_address) +
                        " are not within one region of the guest's memory");
}

void GuestMemory::read(std::uint64_t guest_address, std::span<std::byte> out) const {
    const std::span<std::byte> bytes = at(guest_address, out.size());
    std::memcpy(out.data(), bytes.data(), out.size());
}

void GuestMemory::write(std::uint64_t guest_address, std::span<const std::byte> bytes) const {
    std::memcpy(at(guest_address, bytes.size()).data(), bytes.data(), bytes.size());
    mark_written(guest_address, bytes.size());
}

void GuestMemory::mark_written(std::uint64_t guest_address, std::uint64_t size_bytes) const {
    (void)at(guest_address, size_bytes);
    mark(guest_address, size_bytes);
}

void GuestMemory::mark(std::uint64_t guest_address, std::uint64_t size_bytes) const noexcept {
    const auto page = page_of(guest_address);
    if (page && size_bytes > 0) {
        written_->mark(*page, (guest_address % kPageBytes + size_bytes + kPageBytes - 1) / kPageBytes);
    }
}

std::optional<std::uint64_t> GuestMemory::page_of(std::uint64_t guest_address) const noexcept {
    for (const GuestRegion& region : regions_) {
        if (guest_address >= region.guest_address && guest_address - region.guest_address < region.size_bytes) {
            return (region.file_offset + (guest_address - region.guest_address)) / kPageBytes;
        }
    }
    return std::nullopt;
}

bool GuestMemory::store(std::uint64_t guest_address, std::span<const std::uint8_t> bytes) const noexcept {
    std::byte* const host = find(guest_address, bytes.size());
    if (host == nullptr) {
        return false;
    }
    const bool is_aligned = !bytes.empty() && reinterpret_cast<std::uint64_t>(host) % bytes.size() == 0;
    if (bytes.size() == 8 && is_aligned) {
        store_word<std::uint64_t>(host, bytes);
    } else if (bytes.size() == 4 && is_aligned) {
        store_word<std::uint32_t>(host, bytes);
    } else if (bytes.size() == 2 && is_aligned) {
        store_word<std::uint16_t>(host, bytes);
    } else {
        std::memcpy(host, bytes.data(), bytes.size());
    }
    mark(guest_address, bytes.size());
    return true;
}

}  // namespace vmthaw
