#include "base/thread.hpp"

#include <pthread.h>
#include <sched.h>
#include <csignal>

#include <cstddef>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMostCpus = std::size_t{64} * 1024;

// The new thread inherits the creator's mask, so it never runs a single instruction with signals open.
class BlockedSignals {
public:
    BlockedSignals() {
        sigset_t set;
        sigfillset(&set);
        for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
            sigdelset(&set, fault);
        }
        check_returned(::pthread_sigmask(SIG_SETMASK, &set, &previous_), "pthread_sigmask");
    }
    ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

private:
    sigset_t previous_{};
};

// A body that throws is a bug of ours; it costs its thread and a line in the log, not the user's process.
void run_guarded(const std::function<void()>& body) noexcept {
    try {
        body();
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "thread", "a thread ended by an exception that nobody caught:");
        log_line(LogLevel::error, "thread", error.what());
    } catch (...) {
        log_line(LogLevel::error, "thread", "a thread ended by an unknown exception that nobody caught");
    }
}

}  // namespace

std::thread start_thread(const std::string& name, std::function<void()> body, int cpu) {
    const BlockedSignals blocked;
    try {
        return std::thread([name, cpu, body = std::move(body)] {
            ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
            if (cpu >= 0) {
                const auto index = static_cast<std::size_t>(cpu);
                std::vector<cpu_set_t> sets(index / CPU_SETSIZE + 1);
                const std::size_t bytes = sets.size() * sizeof(cpu_set_t);
                CPU_SET_S(index, bytes, sets.data());
                // Without the pin the thread is slower, not wrong.
                ::pthread_setaffinity_np(::pthread_self(), bytes, sets.data());
            }
            run_guarded(body);
        });
    } catch (const std::system_error& error) {
        throw SystemError(error.code().value(), "starting thread " + name,
                          "raise RLIMIT_NPROC or the cgroup's pids.max");
    }
}

void join_or_abandon(std::thread& thread, const ForkGuard& guard) noexcept {
    if (!thread.joinable()) {
        return;
    }
    if (guard.inherited()) {
        // The handle names a thread of the parent, and its memory may be another thread's by now: leak it.
        [[maybe_unused]] auto* const leaked = new (std::nothrow) std::thread(std::move(thread));
        return;  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see above
    }
    thread.join();
}

std::vector<int> usable_cpus() {
    std::vector<int> cpus;
    // The kernel refuses (EINVAL) a set smaller than its own.
    for (std::size_t count = CPU_SETSIZE; cpus.empty() && count <= kMostCpus; count *= 4) {
        std::vector<cpu_set_t> sets(count / CPU_SETSIZE);
        const std::size_t bytes = sets.size() * sizeof(cpu_set_t);
        if (::sched_getaffinity(0, bytes, sets.data()) != 0) {
            continue;
        }
        for (std::size_t cpu = 0; cpu < count; ++cpu) {
            if (CPU_ISSET_S(cpu, bytes, sets.data())) {
                cpus.push_back(static_cast<int>(cpu));
            }
        }
    }
    if (cpus.empty()) {
        cpus.push_back(0);
    }
    return cpus;
}

}  // namespace vmthaw
