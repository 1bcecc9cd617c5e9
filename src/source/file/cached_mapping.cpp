#include "source/file/cached_mapping.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr int kMadvPopulateRead = 22;  // linux/mman.h, Linux 5.14
constexpr std::uint64_t kGroup = CachedMapping::kGroupBytes;
constexpr std::uint64_t kBits = 64;

constexpr std::uint64_t bit_of(std::uint64_t group) { return std::uint64_t{1} << (group % kBits); }

Mapping map_file(const BackingFile& file) {
    try {
        return Mapping::map(round_up(file.size(), kPageBytes), PROT_READ, MAP_SHARED | MAP_NORESERVE, file.fd(), 0,
                            "mmap");
    } catch (const SystemError& error) {
        throw_open_error(file.path(), error.errno_value(),
                         std::string(error.what()) + "; mode=\"pread\" works without a mapping");
    }
}

}  // namespace

CachedMapping::CachedMapping(const BackingFile& file, const DataRanges& ranges)
    : file_(file),
      ranges_(ranges),
      mapping_(map_file(file)),
      warm_(Mapping::anonymous(round_up(round_up(file.size(), kGroup) / kGroup, kBits) / 8)),
      reads_(Mapping::anonymous(round_up(file.size(), kGroup) / kGroup)) {
    ::madvise(mapping_.data(), mapping_.size(), MADV_RANDOM);
    ::madvise(mapping_.data(), mapping_.size(), MADV_DONTDUMP);
}

std::uint64_t* CachedMapping::word_of(std::uint64_t group) const noexcept {
    // JUSTIFICATION: page-aligned zeroed memory that this object owns, read and written as aligned words by the
    // __atomic built-ins alone; an array of std::atomic would have to be constructed, which would touch all of it.
    return reinterpret_cast<std::uint64_t*>(warm_.data()) + group / kBits;
}

bool CachedMapping::is_warm(std::uint64_t position, std::uint64_t size) noexcept {
    const std::uint64_t end = position + size;
    for (std::uint64_t group = position / kGroup; group * kGroup < end; ++group) {
        if ((__atomic_load_n(word_of(group), __ATOMIC_RELAXED) & bit_of(group)) != 0) {
            continue;
        }
        const std::uint64_t group_begin = group * kGroup;
        if (!probe_group(group, std::max(position, group_begin), std::min(end, group_begin + kGroup))) {
            return false;
        }
    }
    return true;
}

bool CachedMapping::is_dear(std::uint64_t position) noexcept {
    // To map a group costs as much as about twenty reads of a page in excess of copying from a mapping.
    constexpr std::uint8_t kManyReads = 20;
    const std::uint64_t group = position / kGroup;
    const auto is_mapped = [this](std::uint64_t at) {
        return (__atomic_load_n(word_of(at), __ATOMIC_RELAXED) & bit_of(at)) != 0;
    };
    if (is_mapped(group) || (group > 0 && is_mapped(group - 1))) {
        return false;
    }
    auto* reads = reinterpret_cast<std::uint8_t*>(reads_.data()) + group;
    // A count lost to another thread matters to nobody.
    const std::uint8_t before = __atomic_load_n(reads, __ATOMIC_RELAXED);
    if (before >= kManyReads) {
        return false;
    }
    __atomic_store_n(reads, static_cast<std::uint8_t>(before + 1), __ATOMIC_RELAXED);
    return true;
}

// True when the data pages of [begin, end), a part of the group, are resident; remembers a group that is complete.
bool CachedMapping::probe_group(std::uint64_t group, std::uint64_t begin, std::uint64_t end) noexcept {
    if (!file_.residency_is_visible()) {
        return probe_pages(begin, end);
    }
    const std::uint64_t group_begin = group * kGroup;
    const std::uint64_t group_end = std::min(group_begin + kGroup, static_cast<std::uint64_t>(mapping_.size()));
    std::array<unsigned char, kGroup / kPageBytes> resident{};
    if (::mincore(mapping_.data() + group_begin, group_end - group_begin, resident.data()) != 0) {
        return false;
    }
    bool group_is_warm = true;
    bool asked_is_warm = true;
    for (std::uint64_t at = group_begin; at < group_end;) {
        const Extent extent = ranges_.at(at, group_end - at);
        for (std::uint64_t page = at; extent.kind == ExtentKind::data && page < at + extent.size; page += kPageBytes) {
            if ((resident[(page - group_begin) / kPageBytes] & 1U) == 0) {
                group_is_warm = false;
                asked_is_warm = asked_is_warm && (page + kPageBytes <= begin || page >= end);
            }
        }
        at += extent.size;
    }
    if (group_is_warm) {
        // Into the page tables too, or every sixteenth copy would fault in the kernel and start anew. Not the holes:
        // that would read them.
        for (std::uint64_t at = group_begin; at < group_end;) {
            const Extent extent = ranges_.at(at, group_end - at);
            if (extent.kind == ExtentKind::data) {
                ::madvise(mapping_.data() + at, extent.size, kMadvPopulateRead);
            }
            at += extent.size;
        }
        __atomic_fetch_or(word_of(group), bit_of(group), __ATOMIC_RELAXED);
    }
    return asked_is_warm;
}

// For files whose residency mincore(2) does not show: one byte of each page, by a read that refuses to wait.
bool CachedMapping::probe_pages(std::uint64_t begin, std::uint64_t end) const noexcept {
    for (std::uint64_t page = begin / kPageBytes * kPageBytes; page < std::min(end, file_.size()); page += kPageBytes) {
        std::byte byte{};
        if (ranges_.at(page, kPageBytes).kind == ExtentKind::data && !file_.read_without_waiting(page, {&byte, 1})) {
            return false;
        }
    }
    return true;
}

ReadResult CachedMapping::populate(std::uint64_t position, std::uint64_t size) noexcept {
    const std::uint64_t end = std::min(position + size, static_cast<std::uint64_t>(mapping_.size()));
    for (std::uint64_t at = position / kPageBytes * kPageBytes; at < end;) {
        const Extent extent = ranges_.at(at, end - at);
        if (extent.kind == ExtentKind::data) {
            int error_number = 0;
            do {
                const bool failed =
                    ::madvise(mapping_.data() + at, round_up(extent.size, kPageBytes), kMadvPopulateRead) != 0;
                error_number = failed ? errno : 0;
            } while (error_number == EINTR || error_number == EAGAIN);
            // EINVAL: the kernel is older than 5.14. EFAULT: a load there would raise SIGBUS, because the disk failed
            // or the file was cut; a read tells which.
            if (error_number == EINVAL || error_number == EFAULT) {
                const ReadResult result = populate_by_reading(at, extent.size);
                if (!result.ok()) {
                    return result;
                }
            } else if (error_number != 0) {
                return {.status = ReadStatus::io_error, .errno_value = error_number};
            }
        }
        at += extent.size;
    }
    return {};
}

ReadResult CachedMapping::populate_by_reading(std::uint64_t position, std::uint64_t size) const noexcept {
    std::array<std::byte, 64 * 1024> scratch;  // NOLINT: its contents do not matter
    const std::uint64_t end = std::min(position + size, file_.size());
    while (position < end) {
        const std::uint64_t piece = std::min<std::uint64_t>(scratch.size(), end - position);
        const ReadResult result = file_.read_at(position, std::span(scratch).first(piece));
        if (!result.ok()) {
            return result;
        }
        position += piece;
    }
    return {};
}

}  // namespace vmthaw
