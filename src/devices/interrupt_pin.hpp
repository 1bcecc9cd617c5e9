#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "base/unique_fd.hpp"
#include "devices/device.hpp"

namespace vmthaw {

// Where a device's interrupt goes. Called without any lock of the device's, one change at a time and in their order.
class InterruptLine {
public:
    InterruptLine() = default;
    InterruptLine(const InterruptLine&) = delete;
    InterruptLine& operator=(const InterruptLine&) = delete;
    virtual ~InterruptLine() = default;
    [[nodiscard]] virtual DeviceOutcome set_level(bool level) noexcept = 0;
};

// Adds 1 to an eventfd at each rise, as KVM_IRQFD wants it. Owns its descriptor.
class EventInterrupt final : public InterruptLine {
public:
    explicit EventInterrupt(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
    [[nodiscard]] DeviceOutcome set_level(bool level) noexcept override;

private:
    UniqueFd fd_;
};

// A device's end of the line. set() records a level under the device's lock; deliver(), called without it, tells the
// line of every change. While one thread delivers, others leave their changes to it. Any thread.
class InterruptPin {
public:
    explicit InterruptPin(std::shared_ptr<InterruptLine> line) noexcept : line_(std::move(line)) {}

    void set(bool level) noexcept;
    [[nodiscard]] DeviceOutcome deliver() noexcept;

private:
    std::shared_ptr<InterruptLine> line_;
    std::mutex mutex_;
    bool level_ = false;         // as the device set it last
    bool told_ = false;          // as the line was told last
    std::uint32_t pending_ = 0;  // changes that the line has not been told of
    bool delivering_ = false;
};

}  // namespace vmthaw
