#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "source/page_source.hpp"

namespace vmthaw {

// `size` bytes of zeros that are never read: a fresh VM's memory, or a stand-in in tests.
// Thread-safe; the constructor throws ArgumentError for a size of 0.
class ZeroSource final : public PageSource {
public:
    explicit ZeroSource(std::uint64_t size);

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override;
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] std::vector<Extent> extents() const override;
    [[nodiscard]] std::string description() const override { return "zero"; }
    void close() noexcept override { closed_.store(true, std::memory_order_relaxed); }

private:
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;

    std::uint64_t size_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
