#include "source/file/file_source.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kHugePage = kLargestSourcePage;

DataRanges scan(const BackingFile& file) {
    try {
        return DataRanges::scan(file.fd(), file.size());
    } catch (const SystemError& error) {
        throw_open_error(file.path(), error.errno_value(), error.what());
    }
}

}  // namespace

FileSource::FileSource(const std::string& path, std::uint64_t ram_start, ShortPolicy short_policy, FileMode mode)
    : file_(path), ram_start_(ram_start), short_policy_(short_policy), ranges_(scan(file_)) {
    if (ram_start % kPageBytes != 0) {
        throw ArgumentError("ram_start " + hex(ram_start) +
                            " is not a multiple of 4096: pages of the file would not be " + "pages of the memory");
    }
    if (ram_start + file_.size() + kHugePage < ram_start) {
        throw ArgumentError("ram_start " + hex(ram_start) + " plus the file's " + std::to_string(file_.size()) +
                            " bytes is beyond 64 bits");
    }
    if (mode == FileMode::mapped) {
        mapping_.emplace(file_, ranges_);
    }
}

bool FileSource::covers(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t end = short_policy_ == ShortPolicy::zero ? round_up(file_.size(), kPageBytes) : file_.size();
    return offset >= ram_start_ && offset - ram_start_ <= end && size <= end - (offset - ram_start_);
}

ReadResult FileSource::check(std::uint64_t offset, std::uint64_t size) const noexcept {
    if (!is_open()) {
        return {.status = ReadStatus::closed};
    }
    if (offset < ram_start_ || offset - ram_start_ >= file_.size()) {
        return {.status = size == 0 && offset == ram_start_ + file_.size() ? ReadStatus::ok : ReadStatus::out_of_range};
    }
    const std::uint64_t room = file_.size() - (offset - ram_start_);
    if (size <= room) {
        return {};
    }
    if (short_policy_ == ShortPolicy::error) {
        return {.status = ReadStatus::short_read, .got_bytes = room};
    }
    // Zeros as long as the last page asked for starts before the end.
    return {.status = size - std::min(size, page_spoken_of(size)) < room ? ReadStatus::ok : ReadStatus::out_of_range};
}

// After a failure or before a success: did the file shrink? With the bytes of the range that are still there.
ReadResult FileSource::cut_short(std::uint64_t position, std::uint64_t size) const noexcept {
    ReadResult result = file_.still_whole();
    if (result.status == ReadStatus::short_read) {
        result.got_bytes = std::min(size, result.got_bytes - std::min(result.got_bytes, position));
    }
    return result;
}

Extent FileSource::extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept {
    const std::uint64_t position = offset - ram_start_;
    if (offset < ram_start_ || position >= file_.size() + kHugePage) {
        // Nothing to serve: as data, so that read() says so. Zeros would hide the caller's mistake.
        return {offset, std::max<std::uint64_t>(limit, 1), ExtentKind::data};
    }
    Extent extent = ranges_.at(position, limit);
    if (extent.kind == ExtentKind::zero && short_policy_ == ShortPolicy::error) {
        if (position >= file_.size()) {
            return {offset, extent.size, ExtentKind::data};
        }
        extent.size = std::min(extent.size, file_.size() - position);
    }
    return {offset, extent.size, extent.kind};
}

ReadResult FileSource::read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    ReadResult result = check(offset, out.size());
    if (!result.ok()) {
        return result;
    }
    const std::uint64_t position = offset - ram_start_;
    result = read_extents(position, out);
    // The size is looked at after the bytes were copied: a cut zeroes the rest of its page, and a read that overlaps
    // it may have seen those zeros.
    const ReadResult whole = cut_short(position, out.size());
    return whole.ok() ? result : whole;
}

ReadResult FileSource::read_extents(std::uint64_t position, std::span<std::byte> out) const noexcept {
    std::uint64_t done = 0;
    while (done < out.size()) {
        Extent extent = ranges_.at(position + done, out.size() - done);
        if (extent.kind == ExtentKind::data && extent.offset < file_.size()) {
            extent.size = std::min(extent.size, file_.size() - extent.offset);
            ReadResult result = file_.read_at(extent.offset, out.subspan(done, extent.size));
            if (!result.ok()) {
                result.got_bytes += done;
                return result;
            }
        } else {
            const auto zeros = out.subspan(done, extent.size);
            std::fill(zeros.begin(), zeros.end(), std::byte{0});
        }
        done += extent.size;
    }
    return {};
}

const std::byte* FileSource::mapped(std::uint64_t offset, std::uint64_t size) const noexcept {
    const std::uint64_t position = offset - ram_start_;
    if (!mapping_ || !is_open() || offset < ram_start_ || position > file_.size() || size > file_.size() - position) {
        return nullptr;
    }
    return mapping_->at(position);
}

bool FileSource::ready(std::uint64_t offset, std::uint64_t size) noexcept {
    if (!mapping_ || !check(offset, size).ok()) {
        return false;
    }
    const std::uint64_t position = offset - ram_start_;
    return mapping_->is_warm(position, std::min(size, file_.size() - position));
}

bool FileSource::read_now(std::uint64_t offset, std::span<std::byte> out) noexcept {
    const std::uint64_t position = offset - ram_start_;
    if (!is_open() || offset < ram_start_ || position > file_.size() || out.size() > file_.size() - position) {
        return false;
    }
    return (!mapping_ || mapping_->is_dear(position)) && file_.read_without_waiting(position, out);
}

ReadResult FileSource::prepare(std::uint64_t offset, std::uint64_t size) noexcept {
    ReadResult result = check(offset, size);
    if (!result.ok()) {
        return result;
    }
    const std::uint64_t position = offset - ram_start_;
    size = std::min(size, file_.size() - position);
    for (std::uint64_t done = 0; done < size;) {
        const Extent extent = ranges_.at(position + done, size - done);
        if (extent.kind == ExtentKind::data) {
            file_.will_need(extent.offset, extent.size);
        }
        done += extent.size;
    }
    if (mapping_) {
        result = mapping_->populate(position, size);
    }
    const ReadResult whole = cut_short(position, size);
    return whole.ok() ? result : whole;
}

ReadResult FileSource::still_whole() const noexcept {
    return is_open() ? file_.still_whole() : ReadResult{.status = ReadStatus::closed};
}

std::vector<Extent> FileSource::extents() const {
    std::vector<Extent> result = ranges_.extents();
    for (Extent& extent : result) {
        extent.offset += ram_start_;
    }
    return result;
}

}  // namespace vmthaw
