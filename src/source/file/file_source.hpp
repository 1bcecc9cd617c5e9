#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "source/file/backing_file.hpp"
#include "source/file/cached_mapping.hpp"
#include "source/file/data_ranges.hpp"
#include "source/page_source.hpp"

namespace vmthaw {

// What the end of the file means to a page that lies across it: zeros to the page's end, or an error.
enum class ShortPolicy : std::uint8_t { zero, error };
// Whether the kernel copies from a mapping of the file, or every byte goes through pread(2).
enum class FileMode : std::uint8_t { mapped, pread };

// A memory file. Its end is its size at open: a file that shrinks afterwards is an error for every later read, never a
// SIGBUS; one that grows or is replaced under its name goes unnoticed, because the open file is what is served.
// Holes are found once, at open, and are zeros without reading. Offset `ram_start` is the file's first byte.
// Thread-safe. The constructor throws Error(SourceOpenError) or ArgumentError; descriptor and mapping live until
// destruction, so that close() never pulls them from under a fault thread.
class FileSource final : public PageSource {
public:
    explicit FileSource(const std::string& path, std::uint64_t ram_start = 0,
                        ShortPolicy short_policy = ShortPolicy::zero, FileMode mode = FileMode::mapped);

    [[nodiscard]] std::uint64_t start() const noexcept override { return ram_start_; }
    [[nodiscard]] std::uint64_t size() const noexcept override { return file_.size(); }
    // Up to the end of the 4 KiB page that holds the last byte (short: zero), or exactly the file (error). For larger
    // pages ask for the range without all but the first 4 KiB of its last page: that page may begin before the end.
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override;
    // Zeros behind the end go as far as the last page asked for, which must start before the end; its size is taken to
    // be the largest power of two from 4 KiB to 2 MiB that divides the range's size.
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // Null across the end as well: what lies behind it in the last page need not be zeros (a file that grew).
    [[nodiscard]] const std::byte* mapped(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] bool read_now(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] bool is_closed() const noexcept override { return !is_open(); }
    [[nodiscard]] std::vector<Extent> extents() const override;
    [[nodiscard]] std::string description() const override { return "file:" + file_.path(); }
    [[nodiscard]] std::string remedy(const ReadResult& result) const override { return file_.remedy(result); }
    void close() noexcept override { closed_.store(true, std::memory_order_relaxed); }

    [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }
    [[nodiscard]] ShortPolicy short_policy() const noexcept { return short_policy_; }
    [[nodiscard]] FileMode mode() const noexcept { return mapping_ ? FileMode::mapped : FileMode::pread; }

private:
    [[nodiscard]] bool is_open() const noexcept { return !closed_.load(std::memory_order_relaxed) && !inherited(); }
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;
    [[nodiscard]] ReadResult cut_short(std::uint64_t position, std::uint64_t size) const noexcept;
    [[nodiscard]] ReadResult read_extents(std::uint64_t position, std::span<std::byte> out) const noexcept;

    BackingFile file_;
    std::uint64_t ram_start_;
    ShortPolicy short_policy_;
    DataRanges ranges_;
    std::optional<CachedMapping> mapping_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
