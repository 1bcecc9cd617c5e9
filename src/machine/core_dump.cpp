#include "machine/core_dump.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "base/write_all.hpp"
#include "machine/snapshot/memory_file.hpp"
#include "vcpu/elf_core.hpp"

namespace vmthaw {
namespace {

// The parts of a mapped range that lie in memory; devices have no bytes here.
void add_range(const GuestMemory& memory, const MappedRange& range, std::vector<CoreSegment>& out) {
    for (const GuestRegion& region : memory.regions()) {
        const std::uint64_t start = std::max(range.guest_physical, region.guest_address);
        const std::uint64_t end =
            std::min(range.guest_physical + range.size_bytes, region.guest_address + region.size_bytes);
        if (start < end) {
            out.push_back({range.address + (start - range.guest_physical), start, end - start,
                           region.file_offset + (start - region.guest_address), range.permissions.writable,
                           range.permissions.kernel_executable || range.permissions.user_executable});
        }
    }
}

std::vector<CoreSegment> segments_of(const GuestMemory& memory, const std::vector<FullRegisters>& vcpus,
                                     CoreAddresses addresses, bool& is_complete) {
    std::vector<CoreSegment> segments;
    if (addresses == CoreAddresses::guest_virtual && !vcpus.empty()) {
        const MappedRanges mapped =
            mapped_ranges(vcpus.front().paging_state(), physical_reader(memory), kMostCoreSegments);
        is_complete = mapped.is_complete;
        for (const MappedRange& range : mapped.ranges) {
            add_range(memory, range, segments);
        }
        if (segments.size() > kMostCoreSegments) {
            segments.resize(kMostCoreSegments);
            is_complete = false;
        }
    }
    if (segments.empty()) {
        for (const GuestRegion& region : memory.regions()) {
            segments.push_back(
                {region.guest_address, region.guest_address, region.size_bytes, region.file_offset, true, true});
        }
    }
    return segments;
}

}  // namespace

ReadPhysical physical_reader(const GuestMemory& memory) {
    return [&memory](std::uint64_t guest_physical, std::span<std::byte> out) {
        for (const GuestRegion& region : memory.regions()) {
            if (guest_physical >= region.guest_address && guest_physical - region.guest_address <= region.size_bytes &&
                out.size() <= region.size_bytes - (guest_physical - region.guest_address)) {
                std::memcpy(out.data(), region.host + (guest_physical - region.guest_address), out.size());
                return true;
            }
        }
        return false;
    };
}

CoreDumpReport write_core_dump(const GuestMemory& memory, const std::vector<FullRegisters>& vcpus,
                               CoreAddresses addresses, const std::string& path, const std::atomic<bool>& cancelled) {
    CoreDumpReport report;
    const std::vector<CoreSegment> segments = segments_of(memory, vcpus, addresses, report.is_complete);
    const std::vector<std::byte> header = encode_core_header(vcpus, segments);
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) {
        const int saved = errno;
        throw SystemError(saved, "creating " + path);
    }
    try {
        if (::ftruncate(fd.get(), static_cast<off_t>(header.size() + memory.size_bytes())) != 0) {
            const int saved = errno;
            throw SystemError(saved, "ftruncate " + path);
        }
        write_all(fd.get(), header.data(), header.size(), 0, path);
        report.data_pages = write_memory(memory, fd.get(), header.size(), path, cancelled).data_pages;
    } catch (...) {
        ::unlink(path.c_str());
        throw;
    }
    report.segments = segments.size();
    return report;
}

}  // namespace vmthaw
