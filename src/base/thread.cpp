#include "base/thread.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <system_error>

#include "base/error.hpp"

namespace vmthaw {
namespace {

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

}  // namespace

std::thread start_thread(const std::string& name, std::function<void()> body, int cpu) {
    const BlockedSignals blocked;
    try {
        return std::thread([name, cpu, body = std::move(body)] {
            ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
            if (cpu >= 0) {
                cpu_set_t set;
                CPU_ZERO(&set);
                CPU_SET(static_cast<unsigned>(cpu), &set);
                // Without the pin the thread is slower, not wrong.
                ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
            }
            body();
        });
    } catch (const std::system_error& error) {
        throw SystemError(error.code().value(), "starting thread " + name,
                          "raise RLIMIT_NPROC or the cgroup's pids.max");
    }
}

std::vector<int> usable_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cpus;
    if (::sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) {
                cpus.push_back(cpu);
            }
        }
    }
    if (cpus.empty()) {
        cpus.push_back(0);
    }
    return cpus;
}

}  // namespace vmthaw
