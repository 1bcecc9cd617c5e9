// The sink asks the kernel for the thread itself; spdlog's own answer lies in a thread_local.
#define SPDLOG_NO_THREAD_ID

#include "base/log.hpp"

#include <pthread.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>

#include "base/clock.hpp"
#include "base/event_fd.hpp"
#include "base/ring.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kLogLines = 2048;

// Cuts before the character that does not fit whole.
std::size_t cut_utf8(std::string_view text, std::size_t limit) noexcept {
    if (text.size() <= limit) {
        return text.size();
    }
    std::size_t end = limit;
    while (end > 0 && limit - end < 3 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
        --end;
    }
    return end;
}

class LogRing {
public:
    void write(const LogRecord& record) noexcept {
        // The exchanges here and in drain() are one order: either the drainer's second look sees this record, or this
        // exchange sees that it armed the descriptor and wakes it.
        if (ring_.push(record) && armed_.exchange(false, std::memory_order_acq_rel)) {
            signal();
        }
    }

    std::size_t drain(std::vector<LogRecord>& out, std::size_t limit) {
        if (const EventFd* event = event_.load(std::memory_order_acquire)) {
            event->drain();
        }
        std::size_t taken = take(out, limit);
        if (taken < limit) {
            armed_.exchange(true, std::memory_order_acq_rel);
            taken += take(out, limit - taken);
        }
        if (taken == limit) {
            signal();  // there may be more
        }
        return taken;
    }

    int fd() {
        const EventFd* event = event_.load(std::memory_order_acquire);
        if (event == nullptr) {
            auto made = std::make_unique<EventFd>();
            made->signal();  // for lines written before anybody could be woken
            if (event_.compare_exchange_strong(event, made.get(), std::memory_order_acq_rel)) {
                event = made.release();
            }
        }
        return event->fd();
    }

    [[nodiscard]] std::uint64_t dropped() const noexcept { return ring_.dropped(); }

    // Only the forking thread is left. Another may have died half way through a write, the lines are the parent's to
    // deliver, and the descriptor is shared with it: begin anew.
    void after_fork_in_child() noexcept {
        ring_.reset();
        armed_.store(false);
        delete event_.exchange(nullptr);
    }

private:
    void signal() const noexcept {
        if (const EventFd* event = event_.load(std::memory_order_acquire)) {
            event->signal();
        }
    }

    std::size_t take(std::vector<LogRecord>& out, std::size_t limit) {
        LogRecord record;
        std::size_t taken = 0;
        while (taken < limit && ring_.pop(record)) {
            out.push_back(record);
            ++taken;
        }
        return taken;
    }

    Ring<LogRecord> ring_{kLogLines};
    std::atomic<const EventFd*> event_{nullptr};
    std::atomic<bool> armed_{false};
};

// The null mutex is right: a ring needs no lock. Nothing is formatted, the payload is copied as it is.
class RingSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
public:
    explicit RingSink(LogRing& ring) : ring_(ring) {}

protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        const std::string_view text(message.payload.data(), message.payload.size());
        LogRecord record;
        record.t_ns = monotonic_ns();
        record.component = message.source.filename;
        // Asked each time: a thread_local would cost a malloc at a thread's first line, and be stale after fork().
        record.tid = static_cast<std::int32_t>(::syscall(SYS_gettid));
        ::pthread_getname_np(::pthread_self(), record.thread_name.data(), record.thread_name.size());
        record.level = from_spdlog(message.level);
        const std::size_t bytes = cut_utf8(text, LogRecord::kTextBytes);
        record.truncated = bytes < text.size();
        record.text_bytes = static_cast<std::uint16_t>(bytes);
        std::memcpy(record.text.data(), text.data(), bytes);
        ring_.write(record);
    }

    void flush_() override {}

private:
    static LogLevel from_spdlog(spdlog::level::level_enum level) noexcept {
        switch (level) {
            case spdlog::level::trace:
            case spdlog::level::debug:
                return LogLevel::debug;
            case spdlog::level::info:
                return LogLevel::info;
            case spdlog::level::warn:
                return LogLevel::warning;
            default:
                return LogLevel::error;
        }
    }

    LogRing& ring_;
};

spdlog::level::level_enum to_spdlog(LogLevel level) noexcept {
    switch (level) {
        case LogLevel::debug:
            return spdlog::level::debug;
        case LogLevel::info:
            return spdlog::level::info;
        case LogLevel::warning:
            return spdlog::level::warn;
        case LogLevel::error:
            break;
    }
    return spdlog::level::err;
}

struct LogState {
    LogRing ring;
    spdlog::logger logger{"vmthaw", std::make_shared<RingSink>(ring)};
    std::atomic<LogLevel> level{LogLevel::info};

    LogState() {
        logger.set_level(to_spdlog(LogLevel::info));
        ::pthread_atfork(nullptr, nullptr, [] { state().ring.after_fork_in_child(); });
    }

    // Never destroyed: a thread may log while the process exits.
    static LogState& state() {
        static auto* const instance = new LogState;
        return *instance;
    }
};

// Made when the library is loaded, so that no thread's first line allocates.
[[maybe_unused]] const LogState& g_made_at_load = LogState::state();

}  // namespace

void log_line(LogLevel level, const char* component, std::string_view text) noexcept {
    // The component travels as the source location's file. A given time keeps spdlog from asking for one.
    LogState::state().logger.log(spdlog::log_clock::time_point{}, spdlog::source_loc{component, 1, ""},
                                 to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
}

void set_log_level(LogLevel level) noexcept {
    LogState::state().level.store(level, std::memory_order_relaxed);
    LogState::state().logger.set_level(to_spdlog(level));
}

LogLevel log_level() noexcept { return LogState::state().level.load(std::memory_order_relaxed); }

int log_fd() { return LogState::state().ring.fd(); }

std::size_t drain_log(std::vector<LogRecord>& out, std::size_t limit) {
    return LogState::state().ring.drain(out, limit);
}

std::uint64_t log_dropped() noexcept { return LogState::state().ring.dropped(); }

}  // namespace vmthaw
