#include "fuse/read_kick.hpp"

#include <mutex>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kReadKick = 5;  // from SIGRTMIN; vCPUs are kicked by the fourth

std::mutex g_read_kick_mutex;

int read_kick_signal() noexcept { return SIGRTMIN + kReadKick; }

void on_read_kick(int /*signal*/) {}

void install_read_kick() {
    const std::lock_guard lock(g_read_kick_mutex);
    struct sigaction previous{};
    check_errno(::sigaction(read_kick_signal(), nullptr, &previous), "sigaction");
    if (previous.sa_handler == &on_read_kick) {
        return;
    }
    if (previous.sa_handler != SIG_DFL) {
        throw StateError("signal " + std::to_string(read_kick_signal()) +
                         ", which ends reads of /dev/fuse, has somebody else's handler");
    }
    struct sigaction action{};
    action.sa_handler = &on_read_kick;
    ::sigfillset(&action.sa_mask);
    check_errno(::sigaction(read_kick_signal(), &action, nullptr), "sigaction");
}

}  // namespace

ReadKick::ReadKick() {
    install_read_kick();
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, read_kick_signal());
    ::pthread_sigmask(SIG_UNBLOCK, &set, &previous_);
}

ReadKick::~ReadKick() { ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

void ReadKick::kick(pthread_t thread) noexcept { ::pthread_kill(thread, read_kick_signal()); }

}  // namespace vmthaw
