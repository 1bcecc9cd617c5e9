#include "base/tick_clock.hpp"

#include <fstream>
#include <string>

namespace vmthaw {
namespace {

constexpr int kTries = 4;

std::string clock_source() {
    std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    std::string name;
    file >> name;
    return name;
}

}  // namespace

bool TickClock::counter_keeps_time() {
    static const bool keeps = [] {
        const std::string name = clock_source();
        return name == "tsc" || name == "arch_sys_counter";
    }();
    return keeps;
}

// Both clocks at one moment: the closest of a few readings, since a thread may lose its processor between the two.
TickClock::Both TickClock::read_both() noexcept {
    Both best;
    std::uint64_t closest = ~std::uint64_t{0};
    for (int i = 0; i < kTries; ++i) {
        const std::uint64_t before = counter();
        const std::uint64_t ns = monotonic_ns();
        const std::uint64_t apart = counter() - before;
        if (apart < closest) {
            closest = apart;
            best = {before + apart / 2, ns};
        }
    }
    return best;
}

std::uint64_t TickClock::to_ns(std::uint64_t ticks) const noexcept {
    if (!uses_counter_) {
        return ticks;
    }
    const Both now = read_both();
    if (now.ticks <= start_.ticks || now.ns <= start_.ns) {
        return 0;  // nothing can have been measured meanwhile
    }
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(Wide{ticks} * (now.ns - start_.ns) / (now.ticks - start_.ticks));
}

}  // namespace vmthaw
