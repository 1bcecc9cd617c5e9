#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "source/known_extents.hpp"
#include "source/page_source.hpp"
#include "source/python/request_queue.hpp"

namespace vmthaw {

// A source whose bytes Python threads supply, through a queue of requests: this side never sees Python and never takes
// the GIL. read() blocks until the answer, the time-out (io_error ETIMEDOUT) or close(), so it belongs on source
// threads. Neither zero extents nor what lies behind the end, zeros to the end of the last page, are asked for.
// Thread-safe; the constructor throws ArgumentError.
class PythonSource final : public PageSource {
public:
    // `extents` (data and zero, in order, without gaps, with bounds at any byte) say what [0, size) is; empty means
    // that all of it is data.
    PythonSource(std::uint64_t size, const std::vector<Extent>& extents, std::string name,
                 std::chrono::milliseconds timeout, std::size_t max_queued);
    PythonSource(const PythonSource&) = delete;
    PythonSource& operator=(const PythonSource&) = delete;
    PythonSource(PythonSource&&) = delete;
    PythonSource& operator=(PythonSource&&) = delete;
    ~PythonSource() override { requests_->close(); }

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override;
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return extents_.at(offset, limit);
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override;
    // True for zeros only: data always waits for Python.
    [[nodiscard]] bool ready(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult prepare(std::uint64_t offset, std::uint64_t size) noexcept override;
    [[nodiscard]] ReadResult still_whole() const noexcept override;
    [[nodiscard]] std::vector<Extent> extents() const override { return extents_.all(); }
    [[nodiscard]] SourceTier tier(std::uint64_t /*offset*/) const noexcept override { return SourceTier::python; }
    [[nodiscard]] std::string description() const override { return "python:" + name_; }
    // What Python said about it, or that it said nothing in time.
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    void close() noexcept override;

    // Where the Python threads find their work. It outlives the source, closed.
    [[nodiscard]] const std::shared_ptr<RequestQueue>& requests() const noexcept { return requests_; }

private:
    [[nodiscard]] ReadResult check(std::uint64_t offset, std::uint64_t size) const noexcept;

    std::uint64_t size_;
    KnownExtents extents_;
    std::string name_;
    std::shared_ptr<RequestQueue> requests_;
    std::atomic<bool> closed_{false};
};

}  // namespace vmthaw
