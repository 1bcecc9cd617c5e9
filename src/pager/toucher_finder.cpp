#include "pager/toucher_finder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <span>
#include <string_view>

#include "base/unique_fd.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMostThreads = 64;

struct ThreadStat {
    std::uint64_t activity = 0;  // minor faults, and times it got a processor
    int cpu = -1;
};

// The fields of proc_pid_stat(5) behind the name, which may hold blanks and brackets: minflt is the 10th, processor the
// 39th of all.
std::optional<ThreadStat> parse(std::string_view text) noexcept {
    constexpr int kFirst = 3;
    constexpr int kMinorFaults = 10;
    constexpr int kProcessor = 39;
    const std::size_t name_end = text.rfind(')');
    if (name_end == std::string_view::npos || name_end + 2 > text.size()) {
        return std::nullopt;
    }
    ThreadStat found;
    const char* at = text.data() + name_end + 2;
    const char* const end = text.data() + text.size();
    for (int field = kFirst; at < end; ++field) {
        if (field == kMinorFaults) {
            std::from_chars(at, end, found.activity);
        } else if (field == kProcessor) {
            return std::from_chars(at, end, found.cpu).ec == std::errc() ? std::optional(found) : std::nullopt;
        }
        const void* const blank = std::memchr(at, ' ', static_cast<std::size_t>(end - at));
        if (blank == nullptr) {
            break;
        }
        at = static_cast<const char*>(blank) + 1;
    }
    return std::nullopt;
}

// A file of /proc/PID/task/TID as text in `buffer`; empty when it cannot be read.
std::string_view read_file(pid_t pid, pid_t tid, const char* name, std::span<char> buffer) noexcept {
    std::array<char, 64> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/task/%d/%s", pid, tid, name);
    const UniqueFd fd(::open(path.data(), O_RDONLY | O_CLOEXEC));
    const ssize_t size = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : -1;
    return {buffer.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
}

std::optional<ThreadStat> read_stat(pid_t pid, pid_t tid) noexcept {
    std::array<char, 1024> buffer{};
    return parse(read_file(pid, tid, "stat", buffer));
}

// How often the thread got a processor: the last of the three numbers of schedstat (sched-stats.rst). 0: not told.
std::uint64_t times_run(pid_t pid, pid_t tid) noexcept {
    std::array<char, 128> buffer{};
    std::string_view text = read_file(pid, tid, "schedstat", buffer);
    text.remove_suffix(text.ends_with('\n') ? 1 : 0);
    std::uint64_t times = 0;
    std::from_chars(text.data() + text.rfind(' ') + 1, text.data() + text.size(), times);
    return times;
}

}  // namespace

int ToucherFinder::find(pid_t pid, pid_t tid) noexcept {
    const std::optional<ThreadStat> stat = read_stat(pid, tid);
    return stat ? stat->cpu : -1;
}

int ToucherFinder::search(pid_t pid) noexcept {
    std::array<char, 32> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/task", pid);
    DIR* const directory = ::opendir(path.data());
    if (directory == nullptr) {
        return -1;
    }
    int cpu = -1;
    std::uint64_t most = 0;
    std::size_t count = 0;
    try {
        while (const dirent* entry = ::readdir(directory)) {  // NOLINT(concurrency-mt-unsafe): our own stream
            const pid_t tid = std::atoi(entry->d_name);       // NOLINT(cert-err34-c): 0 for "." and ".."
            if (tid <= 0) {
                continue;
            }
            if (count == kMostThreads) {
                cpu = -1;
                break;
            }
            std::optional<ThreadStat> stat = read_stat(pid, tid);
            if (stat) {
                stat->activity += times_run(pid, tid);
            }
            if (count == seen_.size()) {
                seen_.emplace_back();
            }
            Seen& seen = seen_[count++];
            if (!stat) {
                continue;
            }
            // A thread that came or went shifts the others: then this look only remembers.
            if (seen.tid == tid && stat->activity - seen.activity > most) {
                most = stat->activity - seen.activity;
                cpu = stat->cpu;
            }
            seen = {tid, stat->activity};
        }
        seen_.resize(count);
    } catch (const std::exception&) {
        cpu = -1;  // no memory: without it nothing is lost but speed
    }
    ::closedir(directory);
    return cpu;
}

}  // namespace vmthaw
