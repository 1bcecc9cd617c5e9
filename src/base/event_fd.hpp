#pragma once

#include <cstdint>

#include "base/unique_fd.hpp"

namespace vmthaw {

// A non-blocking eventfd. signal() and drain() are safe from any thread and never block.
class EventFd {
public:
    EventFd();  // throws SystemError

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    void signal() const noexcept;
    std::uint64_t drain() const noexcept;  // the number of signals since the last drain

private:
    UniqueFd fd_;
};

}  // namespace vmthaw
