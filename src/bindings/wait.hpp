#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>

#include "base/error.hpp"

// GIL: held on entry and on return; released while `wait_slice` runs, so that may take C++ locks but must not touch
// Python. Between slices Python's signal handlers run: Ctrl-C ends every wait that is built on this.
namespace vmthaw::bindings {

inline constexpr std::chrono::milliseconds kWaitSlice{50};

// A slice as the core takes it.
inline std::uint64_t slice_ns(std::chrono::milliseconds slice) {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(slice).count());
}

// Calls `wait_slice(how long)` until it answers true (then true) or `timeout_s` is over (then false). None waits for
// ever, 0 and less look once. `wait_slice` waits at most that long and may come back early.
// Throws error_already_set when a signal handler raised, and whatever `wait_slice` throws.
inline bool wait_interruptible(std::optional<double> timeout_s,
                               const std::function<bool(std::chrono::milliseconds)>& wait_slice) {
    using Clock = std::chrono::steady_clock;
    using Seconds = std::chrono::duration<double>;
    constexpr double kForeverS = 1e9;  // keeps the sum inside the clock's range
    if (timeout_s && std::isnan(*timeout_s)) {
        throw ArgumentError("the time-out is not a number; give seconds, or None to wait for ever");
    }
    const bool bounded = timeout_s && *timeout_s < kForeverS;
    const auto deadline =
        bounded ? Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(std::max(*timeout_s, 0.0)))
                : Clock::time_point::max();
    for (;;) {
        auto slice = kWaitSlice;
        if (bounded) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
            slice = std::clamp(left, std::chrono::milliseconds(0), kWaitSlice);
        }
        bool done = false;
        {
            const pybind11::gil_scoped_release release;
            done = wait_slice(slice);
        }
        if (done) {
            return true;
        }
        if (PyErr_CheckSignals() != 0) {
            throw pybind11::error_already_set();
        }
        if (bounded && Clock::now() >= deadline) {
            return false;
        }
    }
}

}  // namespace vmthaw::bindings
