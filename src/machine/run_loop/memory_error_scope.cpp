#include "machine/run_loop/memory_error_scope.hpp"

#include <cerrno>
#include <csignal>
#include <mutex>

#include "base/error.hpp"

namespace vmthaw {
namespace {

std::mutex g_handler_mutex;
struct sigaction g_previous{};  // read by the handler; written before it is installed, never again

// Written by the thread itself, or by the handler on the same thread.
thread_local Vcpu* volatile g_guarded = nullptr;
thread_local volatile std::uint64_t g_address = 0;
thread_local volatile std::sig_atomic_t g_struck = 0;

void on_bus_error(int signal, siginfo_t* info, void* context) {
    Vcpu* const running = g_guarded;
    // Struck again before anybody took it: it is no KVM_RUN, which would have come out, but the thread's own access,
    // which would be made for ever.
    if (running != nullptr && info->si_code == BUS_MCEERR_AR && g_struck == 0) {
        g_address = reinterpret_cast<std::uint64_t>(info->si_addr);
        g_struck = 1;
        running->set_immediate_exit(true);
        return;
    }
    if ((static_cast<unsigned>(g_previous.sa_flags) & unsigned{SA_SIGINFO}) != 0) {
        g_previous.sa_sigaction(signal, info, context);
        return;
    }
    if (g_previous.sa_handler != SIG_DFL && g_previous.sa_handler != SIG_IGN) {
        g_previous.sa_handler(signal);
        return;
    }
    // As if this handler had never been: the access is made again, or the signal sent again, and ends the process.
    struct sigaction usual{};
    usual.sa_handler = SIG_DFL;
    ::sigaction(signal, &usual, nullptr);
    ::raise(signal);
}

void install_handler() {
    const std::lock_guard lock(g_handler_mutex);
    static bool installed = false;
    if (installed) {
        return;  // also where somebody came after this handler: to go before him again could be a ring
    }
    check_errno(::sigaction(SIGBUS, nullptr, &g_previous), "sigaction(SIGBUS)");
    struct sigaction action{};
    action.sa_sigaction = &on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigemptyset(&action.sa_mask);
    check_errno(::sigaction(SIGBUS, &action, nullptr), "sigaction(SIGBUS)");
    installed = true;
}

}  // namespace

MemoryErrorScope::MemoryErrorScope(Vcpu& vcpu) : struck_(&g_struck) {
    install_handler();
    g_struck = 0;
    g_guarded = &vcpu;
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGBUS);
    // Blocked, KVM would send it and try the page again for ever. Left open: a blocked SIGBUS serves nobody.
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

MemoryErrorScope::~MemoryErrorScope() { g_guarded = nullptr; }

std::optional<std::uint64_t> MemoryErrorScope::take_address() noexcept {
    if (*struck_ == 0) {
        return std::nullopt;
    }
    *struck_ = 0;
    return g_address;
}

}  // namespace vmthaw
