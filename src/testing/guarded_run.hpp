#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace vmthaw::testing {

// Threads whose work may block in the kernel for ever (a page that nobody serves) and are then left behind: whatever
// they use must be owned by their bodies, through shared pointers. All waits have a time-out.
class GuardedRun {
public:
    // Starts one thread per body; `cpus[i]` pins thread i (-1, or too short: free). Throws SystemError.
    GuardedRun(const std::string& name, std::vector<std::function<void()>> bodies, const std::vector<int>& cpus);
    GuardedRun(const GuardedRun&) = delete;
    GuardedRun& operator=(const GuardedRun&) = delete;
    GuardedRun(GuardedRun&&) = delete;
    GuardedRun& operator=(GuardedRun&&) = delete;
    ~GuardedRun() = default;

    // True when every thread has ended in time. Rethrows what the first failed body threw.
    [[nodiscard]] bool wait_for(std::uint64_t timeout_ns) const;

private:
    struct State {
        std::mutex mutex;
        std::condition_variable changed;
        std::size_t running = 0;
        bool go = false;
        std::exception_ptr error;
    };
    static void run(const std::shared_ptr<State>& state, const std::function<void()>& body) noexcept;
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace vmthaw::testing
