#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/fork_guard.hpp"

namespace vmthaw {

// Starts a named C++ thread with every signal blocked but SIGSEGV, SIGBUS, SIGILL and SIGFPE, so that Ctrl-C reaches
// Python's main thread. `cpu` >= 0 pins it. `body` must not throw: if it does, its thread ends with a line in the log.
// Throws SystemError when the thread cannot be started (EAGAIN).
[[nodiscard]] std::thread start_thread(const std::string& name, std::function<void()> body, int cpu = -1);

// What a destructor does with its thread: joins it, or in a forked child, where it does not exist, forgets it. A plain
// ~thread() would end the child, and detach() touch memory that is no longer that thread's. The body must be ending.
void join_or_abandon(std::thread& thread, const ForkGuard& guard) noexcept;

// The processors this process may run on, in ascending order; never empty.
[[nodiscard]] std::vector<int> usable_cpus();

}  // namespace vmthaw
