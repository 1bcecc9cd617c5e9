#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace vmthaw {

// Starts a named C++ thread with every signal blocked but SIGSEGV, SIGBUS, SIGILL and SIGFPE, so that Ctrl-C reaches
// Python's main thread. `cpu` >= 0 pins it. `body` must not throw: nothing escapes a thread.
// Throws SystemError when the thread cannot be started (EAGAIN).
[[nodiscard]] std::thread start_thread(const std::string& name, std::function<void()> body, int cpu = -1);

// The processors this process may run on, in ascending order; never empty.
[[nodiscard]] std::vector<int> usable_cpus();

}  // namespace vmthaw
