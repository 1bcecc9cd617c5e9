#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {

// Where a serial port's output goes. write() is called on vCPU threads: it waits for nobody and throws nothing.
class ByteSink {
public:
    ByteSink() = default;
    ByteSink(const ByteSink&) = delete;
    ByteSink& operator=(const ByteSink&) = delete;
    virtual ~ByteSink() = default;
    virtual void write(std::span<const std::uint8_t> data) noexcept = 0;
};

// Keeps the newest bytes, up to a limit; older ones that nobody took are dropped and counted. Thread-safe, in a forked
// child inert.
class OutputBuffer final : public ByteSink {
public:
    explicit OutputBuffer(std::size_t capacity_bytes);  // throws ArgumentError for 0 and for more than 1 GiB

    void write(std::span<const std::uint8_t> data) noexcept override;
    // Takes the oldest bytes, `limit` at most.
    [[nodiscard]] std::vector<std::uint8_t> take(std::size_t limit);
    // Waits for a byte, or for the end. False after `timeout`.
    [[nodiscard]] bool wait(std::chrono::milliseconds timeout);
    // No more bytes are taken; those that are there can still be taken out. Idempotent.
    void close() noexcept;
    [[nodiscard]] bool is_closed() const;
    [[nodiscard]] std::size_t size_bytes() const;
    [[nodiscard]] std::uint64_t dropped_bytes() const;
    [[nodiscard]] std::size_t capacity_bytes() const noexcept { return capacity_; }

private:
    ForkGuard guard_;
    mutable std::mutex mutex_;
    std::condition_variable arrived_;
    std::size_t capacity_;
    std::unique_ptr<std::uint8_t[]> bytes_;  // not cleared: a console that says little costs little memory
    std::size_t first_ = 0;
    std::size_t used_ = 0;
    std::uint64_t dropped_ = 0;
    bool closed_ = false;
};

// The producers' end of a buffer: when the last of them lets go of it, the buffer is closed, which ends its reader.
class ClosingSink final : public ByteSink {
public:
    explicit ClosingSink(std::shared_ptr<OutputBuffer> buffer) noexcept : buffer_(std::move(buffer)) {}
    ClosingSink(const ClosingSink&) = delete;
    ClosingSink& operator=(const ClosingSink&) = delete;
    ~ClosingSink() override { buffer_->close(); }
    void write(std::span<const std::uint8_t> data) noexcept override { buffer_->write(data); }

private:
    std::shared_ptr<OutputBuffer> buffer_;
};

// Writes to a descriptor that it owns, while that takes bytes; what it does not take at once waits, up to a limit, for
// the next write() or flush(), and beyond that is dropped and counted. An error is kept and ends the writing. The guest
// never waits for a slow reader. Thread-safe.
class DescriptorSink final : public ByteSink {
public:
    DescriptorSink(UniqueFd fd, std::size_t backlog_bytes);
    DescriptorSink(const DescriptorSink&) = delete;
    DescriptorSink& operator=(const DescriptorSink&) = delete;
    ~DescriptorSink() override;

    void write(std::span<const std::uint8_t> data) noexcept override;
    // Writes what waits, as far as the descriptor takes it now. True when nothing waits any more.
    bool flush() noexcept;
    [[nodiscard]] std::uint64_t dropped_bytes() const;
    [[nodiscard]] int errno_value() const;  // of the error that ended it, or 0

private:
    [[nodiscard]] std::size_t write_now(std::span<const std::uint8_t> data) noexcept;
    void flush_backlog() noexcept;

    ForkGuard guard_;
    mutable std::mutex mutex_;
    UniqueFd fd_;
    std::size_t capacity_;
    std::unique_ptr<std::uint8_t[]> backlog_;
    std::size_t used_ = 0;
    std::uint64_t dropped_ = 0;
    int errno_ = 0;
};

}  // namespace vmthaw
