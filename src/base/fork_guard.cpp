#include "base/fork_guard.hpp"

#include <pthread.h>

#include <atomic>

#include "base/error.hpp"

namespace vmthaw {
namespace {

std::atomic<std::uint64_t> g_generation{0};

// Fails only without memory while the library is loaded; then nothing else would load either.
[[maybe_unused]] const int g_registered =
    ::pthread_atfork(nullptr, nullptr, [] { g_generation.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

std::uint64_t ForkGuard::current_generation() noexcept { return g_generation.load(std::memory_order_relaxed); }

void ForkGuard::check(const char* what) const {
    if (inherited()) {
        throw ForkedError(what);
    }
}

}  // namespace vmthaw
