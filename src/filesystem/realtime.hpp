#pragma once

#include <ctime>

namespace vmthaw {

// The time that files are stamped with.
[[nodiscard]] inline timespec realtime_now() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return now;
}

}  // namespace vmthaw
