#include "filesystem/memory_data.hpp"

#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>

#include "filesystem/memfd_calls.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMemoryPage_bytes = MemoryData::kPage_bytes;

// One past the last page that [offset, offset + length) touches; the length is not 0.
std::uint64_t end_page(std::uint64_t offset, std::uint64_t length) noexcept {
    return (offset + length - 1) / kMemoryPage_bytes + 1;
}

}  // namespace

int MemoryData::changed_file(int error) noexcept {
    used_bytes_ = memfd_used_bytes(file_.get());
    return error;
}

int MemoryData::read(std::uint64_t offset, std::span<std::byte> out, std::size_t& read_bytes) const noexcept {
    read_bytes = 0;
    if (offset >= size_bytes_) {
        return 0;
    }
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size_bytes_ - offset));
    if (file_) {
        read_bytes = length;
        return memfd_read(file_.get(), out.first(length), offset);
    }
    std::size_t done = 0;
    auto page = pages_.lower_bound(offset / kMemoryPage_bytes);
    while (done < length) {
        const std::uint64_t at = offset + done;
        const std::uint64_t number = at / kMemoryPage_bytes;
        const auto within = static_cast<std::size_t>(at % kMemoryPage_bytes);
        const std::size_t part = std::min(length - done, kPage_bytes - within);
        if (page != pages_.end() && page->first == number) {
            std::memcpy(out.data() + done, page->second->data() + within, part);
            ++page;
        } else {
            std::memset(out.data() + done, 0, part);
        }
        done += part;
    }
    read_bytes = length;
    return 0;
}

std::uint64_t MemoryData::missing_pages(std::uint64_t offset, std::uint64_t length) const noexcept {
    const std::uint64_t first = offset / kMemoryPage_bytes;
    const std::uint64_t end = end_page(offset, length);
    if (file_) {
        // What fallocate took and nobody has written looks like a hole there; the file as a whole knows better.
        const std::uint64_t all = std::max(end, (size_bytes_ + kMemoryPage_bytes - 1) / kMemoryPage_bytes);
        const std::uint64_t untaken = all - std::min(all, used_bytes_ / kMemoryPage_bytes);
        return std::min(untaken, memfd_missing_pages(file_.get(), first, end, size_bytes_));
    }
    const auto present = std::distance(pages_.lower_bound(first), pages_.lower_bound(end));
    return end - first - static_cast<std::uint64_t>(present);
}

int MemoryData::add_pages(std::uint64_t offset, std::uint64_t length) noexcept {
    const std::uint64_t end = end_page(offset, length);
    try {
        auto next = pages_.lower_bound(offset / kMemoryPage_bytes);
        for (std::uint64_t number = offset / kMemoryPage_bytes; number < end; ++number) {
            if (next != pages_.end() && next->first == number) {
                ++next;
                continue;
            }
            pages_.emplace_hint(next, number, std::make_unique<Page>());
            used_bytes_ += kMemoryPage_bytes;
        }
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
    return 0;
}

int MemoryData::write_pages(std::uint64_t offset, std::span<const std::byte> data) noexcept {
    if (const int error = add_pages(offset, data.size()); error != 0) {
        return error;
    }
    std::size_t done = 0;
    for (auto page = pages_.find(offset / kMemoryPage_bytes); done < data.size(); ++page) {
        const auto within = static_cast<std::size_t>((offset + done) % kMemoryPage_bytes);
        const std::size_t part = std::min(data.size() - done, kPage_bytes - within);
        std::memcpy(page->second->data() + within, data.data() + done, part);
        done += part;
    }
    return 0;
}

int MemoryData::write(std::uint64_t offset, std::span<const std::byte> data, std::uint64_t free_bytes) noexcept {
    if (data.empty()) {
        return 0;
    }
    const std::uint64_t bound = end_page(offset, data.size()) - offset / kMemoryPage_bytes;
    if (bound > free_bytes / kMemoryPage_bytes && missing_pages(offset, data.size()) > free_bytes / kMemoryPage_bytes) {
        return ENOSPC;
    }
    const int error = file_ ? changed_file(memfd_write(file_.get(), data, offset)) : write_pages(offset, data);
    if (error == 0) {
        size_bytes_ = std::max<std::uint64_t>(size_bytes_, offset + data.size());
    }
    return error;
}

int MemoryData::resize(std::uint64_t size_bytes) noexcept {
    if (file_) {
        const int error = changed_file(memfd_resize(file_.get(), size_bytes));
        size_bytes_ = error == 0 ? size_bytes : size_bytes_;
        return error;
    }
    // Also what fallocate put behind the end goes.
    const std::uint64_t keep = size_bytes == 0 ? 0 : end_page(0, size_bytes);
    if (size_bytes < size_bytes_) {
        const auto gone = pages_.lower_bound(keep);
        used_bytes_ -= static_cast<std::uint64_t>(std::distance(gone, pages_.end())) * kMemoryPage_bytes;
        pages_.erase(gone, pages_.end());
        if (keep != 0 && size_bytes % kMemoryPage_bytes != 0) {
            zero_pages(size_bytes, keep * kMemoryPage_bytes - size_bytes);
        }
    }
    size_bytes_ = size_bytes;
    return 0;
}

int MemoryData::allocate(std::uint64_t offset, std::uint64_t length, std::uint64_t free_bytes) noexcept {
    if (missing_pages(offset, length) > free_bytes / kMemoryPage_bytes) {
        return ENOSPC;
    }
    return file_ ? changed_file(memfd_allocate(file_.get(), FALLOC_FL_KEEP_SIZE, offset, length))
                 : add_pages(offset, length);
}

void MemoryData::zero_pages(std::uint64_t offset, std::uint64_t length) noexcept {
    const std::uint64_t stop = offset + length;
    for (auto page = pages_.lower_bound(offset / kMemoryPage_bytes); page != pages_.end();) {
        const std::uint64_t begin = page->first * kMemoryPage_bytes;
        if (begin >= stop) {
            return;
        }
        const auto from = static_cast<std::size_t>(offset > begin ? offset - begin : 0);
        const auto to = static_cast<std::size_t>(std::min(stop - begin, kMemoryPage_bytes));
        if (from == 0 && to == kPage_bytes) {
            page = pages_.erase(page);
            used_bytes_ -= kMemoryPage_bytes;
        } else {
            std::memset(page->second->data() + from, 0, to - from);
            ++page;
        }
    }
}

int MemoryData::punch(std::uint64_t offset, std::uint64_t length) noexcept {
    if (file_) {
        return changed_file(memfd_allocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length));
    }
    zero_pages(offset, length);
    return 0;
}

int MemoryData::seek(std::uint64_t offset, bool for_hole, std::uint64_t& found) const noexcept {
    if (offset >= size_bytes_) {
        return ENXIO;
    }
    if (file_) {
        return memfd_seek(file_.get(), offset, for_hole ? SEEK_HOLE : SEEK_DATA, found);
    }
    auto page = pages_.lower_bound(offset / kMemoryPage_bytes);
    if (for_hole) {
        std::uint64_t number = offset / kMemoryPage_bytes;
        for (; page != pages_.end() && page->first == number; ++page) {
            ++number;
        }
        found = std::min(std::max(offset, number * kMemoryPage_bytes), size_bytes_);
        return 0;
    }
    if (page == pages_.end() || page->first * kMemoryPage_bytes >= size_bytes_) {
        return ENXIO;
    }
    found = std::max(offset, page->first * kMemoryPage_bytes);
    return 0;
}

int MemoryData::descriptor(int& fd) noexcept {
    if (!file_) {
        UniqueFd made;
        int error = memfd_make(made);
        if (error == 0) {
            error = memfd_resize(made.get(), size_bytes_);
        }
        for (auto page = pages_.begin(); error == 0 && page != pages_.end(); ++page) {
            const std::uint64_t begin = page->first * kMemoryPage_bytes;
            if (begin < size_bytes_) {
                const std::size_t part =
                    static_cast<std::size_t>(std::min<std::uint64_t>(kMemoryPage_bytes, size_bytes_ - begin));
                error = memfd_write(made.get(), std::span(*page->second).first(part), begin);
            }
        }
        if (error != 0) {
            return error;
        }
        file_ = std::move(made);
        pages_.clear();
        static_cast<void>(changed_file(0));
    }
    fd = file_.get();
    return 0;
}

}  // namespace vmthaw
