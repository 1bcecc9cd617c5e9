#include "machine/run_timer.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kDefaultKick = 4;    // from SIGRTMIN; the C library keeps the first two for itself
constexpr int kSigevThreadId = 4;  // SIGEV_THREAD_ID
constexpr std::uint64_t kSecond_ns = 1'000'000'000;

std::mutex g_mutex;            // guards the installation
int g_installed = 0;           // the signal whose handler is ours
std::atomic<int> g_signal{0};  // 0: the default

// Written by the thread itself before the signal can come, read by the handler on the same thread.
thread_local Vcpu* g_running = nullptr;
thread_local volatile std::sig_atomic_t g_fired = 0;

void on_kick(int /*signal*/) {
    g_fired = 1;
    if (g_running != nullptr) {
        g_running->set_immediate_exit(true);
    }
}

void install_handler(int signal) {
    const std::lock_guard lock(g_mutex);
    if (g_installed == signal) {
        return;
    }
    struct sigaction previous{};
    check_errno(::sigaction(signal, nullptr, &previous), "sigaction");
    if (previous.sa_handler != SIG_DFL && previous.sa_handler != &on_kick) {
        throw StateError("signal " + std::to_string(signal) +
                         ", which kicks vCPUs, has somebody else's handler; choose another with set_kick_signal");
    }
    struct sigaction action{};
    action.sa_handler = &on_kick;
    ::sigfillset(&action.sa_mask);
    check_errno(::sigaction(signal, &action, nullptr), "sigaction");
    g_installed = signal;
}

// The system calls themselves: the C library of the oldest systems has these in another library.
int create_timer(int signal) {
    sigevent event{};
    event.sigev_notify = kSigevThreadId;
    event.sigev_signo = signal;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    int timer = 0;
    check_errno_long(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer), "timer_create");
    return timer;
}

}  // namespace

void set_kick_signal(int signal) {
    if (signal < SIGRTMIN || signal > SIGRTMAX) {
        throw ArgumentError("the kick must be a real-time signal, " + std::to_string(SIGRTMIN) + " to " +
                            std::to_string(SIGRTMAX));
    }
    install_handler(signal);
    g_signal.store(signal);
}

int kick_signal() noexcept {
    const int chosen = g_signal.load();
    return chosen != 0 ? chosen : SIGRTMIN + kDefaultKick;
}

RunTimer::RunTimer(Vcpu& vcpu, std::uint64_t slice_ns) {
    const int signal = kick_signal();
    install_handler(signal);
    timer_ = create_timer(signal);
    g_fired = 0;
    g_running = &vcpu;
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, signal);
    ::pthread_sigmask(SIG_UNBLOCK, &set, &previous_);
    itimerspec when{};
    const std::uint64_t delay_ns = slice_ns == 0 ? 1 : slice_ns;  // 0 would disarm it
    when.it_value.tv_sec = static_cast<time_t>(delay_ns / kSecond_ns);
    when.it_value.tv_nsec = static_cast<long>(delay_ns % kSecond_ns);
    when.it_interval.tv_nsec = 10'000'000;  // again, should the first one come between two looks
    ::syscall(SYS_timer_settime, timer_, 0, &when, nullptr);
}

RunTimer::~RunTimer() {
    // The signal is open here, so a late one is delivered before the call returns, while g_running is still good.
    const int saved = errno;
    ::syscall(SYS_timer_delete, timer_);
    g_running = nullptr;
    ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
    errno = saved;
}

bool RunTimer::has_fired() noexcept { return g_fired != 0; }

}  // namespace vmthaw
