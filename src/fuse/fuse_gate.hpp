#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace vmthaw {

// Lets requests through while a client is there, and keeps them out while one comes or goes. No lock is held while a
// request or the change of clients runs; begun requests are waited for, new ones refused. Any thread.
class FuseGate {
public:
    FuseGate() = default;
    FuseGate(const FuseGate&) = delete;
    FuseGate& operator=(const FuseGate&) = delete;
    ~FuseGate() = default;

    // false: nobody is there. True: leave() must follow.
    [[nodiscard]] bool enter() noexcept;
    void leave() noexcept;

    // Closes the gate and waits until nobody is inside; what then runs is alone until finish(). One at a time: others
    // wait. Not to be called from inside. Tells whether the gate was open.
    bool begin_change() noexcept;
    void finish_change(bool open) noexcept;

    [[nodiscard]] bool open() const noexcept { return (state_.load() & kClosed) == 0; }

private:
    static constexpr std::uint64_t kClosed = 1ULL << 63;

    std::atomic<std::uint64_t> state_{kClosed};  // requests inside, and the bit
    std::mutex mutex_;
    std::condition_variable changed_;
    bool changing_ = false;
};

}  // namespace vmthaw
