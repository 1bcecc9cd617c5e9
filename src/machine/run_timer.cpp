#include "machine/run_timer.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kSigevThreadId = 4;  // SIGEV_THREAD_ID

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

RunTimer::RunTimer(Vcpu& vcpu, std::uint64_t slice_ns) : scope_(vcpu), timer_(create_timer(kick_signal())) {
    clear_kick();
    itimerspec when{};
    const std::uint64_t delay_ns = slice_ns == 0 ? 1 : slice_ns;  // 0 would disarm it
    when.it_value.tv_sec = static_cast<time_t>(delay_ns / kSecond_ns);
    when.it_value.tv_nsec = static_cast<long>(delay_ns % kSecond_ns);
    when.it_interval.tv_nsec = 10'000'000;  // again, should the first one come between two looks
    ::syscall(SYS_timer_settime, timer_, 0, &when, nullptr);
}

RunTimer::~RunTimer() {
    // The scope goes after the timer: a late signal still finds the vCPU.
    const int saved = errno;
    ::syscall(SYS_timer_delete, timer_);
    errno = saved;
}

}  // namespace vmthaw
