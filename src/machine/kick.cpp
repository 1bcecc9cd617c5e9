#include "machine/kick.hpp"

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr int kDefaultKick = 4;  // from SIGRTMIN; the C library keeps the first two for itself

std::mutex g_mutex;            // guards the installation
int g_installed = 0;           // the signal whose handler is ours
std::atomic<int> g_signal{0};  // 0: the default

// Written by the thread itself before the signal can come, read by the handler on the same thread.
thread_local Vcpu* g_running = nullptr;
thread_local volatile std::sig_atomic_t g_kicked = 0;

void on_kick(int /*signal*/) {
    g_kicked = 1;
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

KickScope::KickScope(Vcpu& vcpu) : outer_(g_running) {
    const int signal = kick_signal();
    install_handler(signal);
    g_running = &vcpu;
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, signal);
    ::pthread_sigmask(SIG_UNBLOCK, &set, &previous_);
}

KickScope::~KickScope() {
    // The signal is open here: one that was sent before is delivered before the mask is restored.
    const int saved = errno;
    ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
    g_running = outer_;
    errno = saved;
}

bool was_kicked() noexcept { return g_kicked != 0; }
void clear_kick() noexcept { g_kicked = 0; }

}  // namespace vmthaw
