#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace vmthaw {

enum class LogLevel : std::uint8_t { debug, info, warning, error };

// Writes one line to the bounded log ring; the drainer hands it to Python's logging as `vmthaw.<component>`.
// Safe on every thread, the fault path included: never blocks, never allocates, never takes the GIL.
// Text beyond the record's size is cut; a full ring drops the line and counts it. `component` must be a literal.
void log_line(LogLevel level, const char* component, std::string_view text) noexcept;

// One line as the ring carries it. The text is UTF-8 without a terminator, cut between characters.
struct LogRecord {
    static constexpr std::size_t kTextBytes = 208;

    std::uint64_t t_ns = 0;  // CLOCK_MONOTONIC
    const char* component = "";
    std::int32_t tid = 0;
    LogLevel level = LogLevel::info;
    bool truncated = false;
    std::uint16_t text_bytes = 0;
    std::array<char, 16> thread_name{};
    std::array<char, kTextBytes> text{};

    [[nodiscard]] std::string_view text_view() const noexcept { return {text.data(), text_bytes}; }
};

// Lines below the level are not written. The default is info. Any thread, at any time.
void set_log_level(LogLevel level) noexcept;
[[nodiscard]] LogLevel log_level() noexcept;

// The drainer's side. log_fd() becomes readable when lines wait; a burst of lines costs one write to it. It belongs to
// the log, is made at the first call (throws SystemError) and is another one in a forked child.
[[nodiscard]] int log_fd();
// Appends at most `limit` waiting lines to `out`, oldest first, and gives back how many. The descriptor stays readable
// when lines are left. Any thread. Lines written before a fork() are the parent's alone.
std::size_t drain_log(std::vector<LogRecord>& out, std::size_t limit);
// Lines lost because the ring was full.
[[nodiscard]] std::uint64_t log_dropped() noexcept;

}  // namespace vmthaw
