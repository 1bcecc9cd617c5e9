#include "testing/fake_vmm_memory.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.hpp"
#include "kernel/userfaultfd.hpp"

namespace vmthaw::testing {
namespace {

constexpr std::uint64_t kAlignment = 2U << 20U;
constexpr std::uint64_t kSmallPage = 4096;
constexpr int kMapHuge2Mb = 21 << 26;  // MAP_HUGE_2MB, which old C libraries lack

// The stand-in opens its descriptor as a foreign VMM does, not through the wrapper under test.
Userfaultfd open_as_vmm(std::uint64_t features) {
    int fd = -1;
    if (const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); device) {
        fd = ::ioctl(device.get(), kUserfaultfdIocNew, O_CLOEXEC | O_NONBLOCK);
    }
    if (fd < 0) {
        fd = static_cast<int>(::syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    }
    if (fd < 0) {
        const int saved = errno;
        throw SystemError(saved, "opening a userfaultfd", "run as root, or make /dev/userfaultfd writable");
    }
    UniqueFd owned(fd);
    UffdApi api{kUffdApi, features, 0};
    check_errno(::ioctl(owned.get(), kUffdioApi, &api), "UFFDIO_API");
    return Userfaultfd(std::move(owned), Features(api.features));
}

std::uint64_t checked_address(void* result, const char* operation, const char* remedy = "") {
    if (result == MAP_FAILED) {
        const int saved = errno;
        throw SystemError(saved, operation, remedy);
    }
    return reinterpret_cast<std::uint64_t>(result);
}

void* pointer(std::uint64_t address) noexcept { return reinterpret_cast<void*>(address); }

// Reserves an aligned range of addresses without memory behind it.
std::uint64_t reserve_aligned(std::uint64_t size) {
    const std::uint64_t start = checked_address(
        ::mmap(nullptr, size + kAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
        "mmap(reservation)");
    const std::uint64_t aligned = (start + kAlignment - 1) / kAlignment * kAlignment;
    if (aligned > start) {
        ::munmap(pointer(start), aligned - start);
    }
    ::munmap(pointer(aligned + size), start + size + kAlignment - (aligned + size));
    return aligned;
}

UniqueFd make_memfd(std::uint64_t size) {
    constexpr unsigned kCloseOnExec = 1;  // MFD_CLOEXEC
    UniqueFd fd(static_cast<int>(
        check_errno_long(::syscall(__NR_memfd_create, "vmthaw-fake-vmm", kCloseOnExec), "memfd_create")));
    check_errno(::ftruncate(fd.get(), static_cast<off_t>(size)), "ftruncate(memfd)");
    return fd;
}

}  // namespace

FakeVmmMemory::FakeVmmMemory(const std::vector<FakeRegionSpec>& regions, MemoryKind kind, std::uint64_t page_size,
                             std::uint64_t extra_features)
    : kind_(kind), page_size_(page_size) {
    if (page_size != kSmallPage && page_size != kAlignment) {
        throw ArgumentError("page_size must be 4096 or 2097152");
    }
    if ((kind == MemoryKind::hugetlb) != (page_size == kAlignment)) {
        throw ArgumentError("2 MiB pages and hugetlb memory go together");
    }
    if (regions.empty()) {
        throw ArgumentError("a VM needs at least one region");
    }
    try {
        const Userfaultfd& userfaultfd =
            userfaultfd_.emplace(open_as_vmm(static_cast<std::uint64_t>(Feature::event_remove) | extra_features));
        for (const FakeRegionSpec& spec : regions) {
            map_region(userfaultfd, spec);
        }
    } catch (...) {
        for (const Piece& piece : pieces_) {
            ::munmap(pointer(piece.address), piece.size);
        }
        throw;
    }
}

FakeVmmMemory::~FakeVmmMemory() {
    userfaultfd_.reset();  // first: with it open, EVENT_UNMAP would wait for a handler that may be gone
    for (const Piece& piece : pieces_) {
        ::munmap(pointer(piece.address), piece.size);
    }
}

void FakeVmmMemory::map_region(const Userfaultfd& userfaultfd, const FakeRegionSpec& spec) {
    if (spec.size == 0 || spec.size % page_size_ != 0 || spec.file_offset % kSmallPage != 0) {
        throw ArgumentError("a region's size must be a multiple of the page size and not 0, its offset one of 4096");
    }
    const std::uint64_t address = reserve_aligned(spec.size);
    pieces_.push_back({address, spec.size});
    UniqueFd memfd;
    int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (kind_ == MemoryKind::hugetlb) {
        flags |= MAP_HUGETLB | kMapHuge2Mb;
    } else if (kind_ == MemoryKind::shmem) {
        memfd = make_memfd(spec.size);
        flags = MAP_FIXED | MAP_SHARED | MAP_NORESERVE;
    }
    checked_address(::mmap(pointer(address), spec.size, PROT_READ | PROT_WRITE, flags, memfd.get(), 0), "mmap(guest)",
                    kind_ == MemoryKind::hugetlb ? "raise vm.nr_hugepages" : "");
    userfaultfd.register_range(address, spec.size, kRegisterMissing);
    first_page_.push_back(addresses_.size());
    regions_.push_back({address, spec.size, spec.file_offset});
    for (std::uint64_t at = 0; at < spec.size; at += page_size_) {
        addresses_.push_back(address + at);
    }
}

std::uint64_t FakeVmmMemory::file_offset(std::uint64_t page) const noexcept {
    const auto after = std::upper_bound(first_page_.begin(), first_page_.end(), page);
    const auto region = static_cast<std::size_t>(after - first_page_.begin()) - 1;
    return regions_[region].file_offset + (page - first_page_[region]) * page_size_;
}

std::uint64_t FakeVmmMemory::check_mapped(std::uint64_t first, std::uint64_t count) const {
    if (count == 0 || first >= pages() || count > pages() - first) {
        throw ArgumentError("pages [" + std::to_string(first) + ", +" + std::to_string(count) + ") are not in the VM");
    }
    for (std::uint64_t page = first; page < first + count; ++page) {
        if (addresses_[page] == 0 || addresses_[page] != addresses_[first] + (page - first) * page_size_) {
            throw ArgumentError("pages [" + std::to_string(first) + ", +" + std::to_string(count) +
                                ") are not one mapped run");
        }
    }
    return addresses_[first];
}

void FakeVmmMemory::remove(std::uint64_t first, std::uint64_t count) const {
    const std::uint64_t address = check_mapped(first, count);
    // On shared memory MADV_DONTNEED would only drop the mapping; the page cache keeps the bytes.
    const int advice = kind_ == MemoryKind::shmem ? MADV_REMOVE : MADV_DONTNEED;
    int result = 0;
    do {
        result = ::madvise(pointer(address), count * page_size_, advice);
    } while (result != 0 && (errno == EAGAIN || errno == EINTR));
    check_errno(result, "madvise(MADV_DONTNEED)");
}

void FakeVmmMemory::unmap(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t address = check_mapped(first, count);
    check_errno(::munmap(pointer(address), count * page_size_), "munmap(guest)");
    for (std::uint64_t page = first; page < first + count; ++page) {
        addresses_[page] = 0;
    }
    // Whatever is mapped there later is not ours: keep the hole reserved for the final clean-up.
    checked_address(::mmap(pointer(address), count * page_size_, PROT_NONE,
                           MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                    "mmap(hole)");
}

void FakeVmmMemory::remap(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t address = check_mapped(first, count);
    const std::uint64_t size = count * page_size_;
    const std::uint64_t target = reserve_aligned(size);
    pieces_.push_back({target, size});
    checked_address(::mremap(pointer(address), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(target)),
                    "mremap(guest)");
    for (std::uint64_t page = first; page < first + count; ++page) {
        addresses_[page] = target + (page - first) * page_size_;
    }
    checked_address(
        ::mmap(pointer(address), size, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
        "mmap(hole)");
}

std::uint64_t FakeVmmMemory::resident_pages() const {
    const UniqueFd pagemap(check_errno(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), "open(/proc/self/pagemap)"));
    std::array<std::uint64_t, 512> entries{};
    std::uint64_t resident = 0;
    std::uint64_t page = 0;
    while (page < pages()) {
        if (addresses_[page] == 0) {
            ++page;
            continue;
        }
        std::uint64_t run = 1;  // of contiguous small pages; hugetlb pages are asked one by one
        while (page_size_ == kSmallPage && run < entries.size() && page + run < pages() &&
               addresses_[page + run] == addresses_[page] + run * kSmallPage) {
            ++run;
        }
        const auto offset = static_cast<off_t>(addresses_[page] / kSmallPage * sizeof(std::uint64_t));
        const ssize_t got = ::pread(pagemap.get(), entries.data(), run * sizeof(std::uint64_t), offset);
        check_errno_long(got, "pread(/proc/self/pagemap)");
        for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(got) / sizeof(std::uint64_t); ++i) {
            resident += entries[i] >> 63U;
        }
        page += run;
    }
    return resident;
}

}  // namespace vmthaw::testing
