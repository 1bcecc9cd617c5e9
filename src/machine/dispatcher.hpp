#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "machine/buses.hpp"
#include "vcpu/exit_classifier.hpp"

namespace vmthaw {

// Does what the classifier decides: feeds devices and writes what they answer into the vCPU's mapping, where the next
// KVM_RUN takes it. Any number of vCPU threads at once, without a lock; owns the buses together with others, and seals
// them. handle() never throws, never allocates and never takes the GIL (a device written in Python does, for its own
// windows).
class Dispatcher {
public:
    Dispatcher(ExitProfile profile, std::shared_ptr<Buses> buses);

    // `run_bytes` is the mapping that `exit` was decoded from. Nothing is read or written outside of it: a port access
    // that does not fit into it is fatal. When a device failed the action is fatal without a reason, and `failed`, if
    // given, is that device's window.
    [[nodiscard]] ExitAction handle(const Exit& exit, std::span<std::byte> run_bytes,
                                    const BusWindow** failed = nullptr) const noexcept;
    // handle() of an exit that classify_exit() gave for this profile and these buses' processor: its action is taken
    // as it is.
    [[nodiscard]] ExitAction perform(const Exit& exit, std::span<std::byte> run_bytes,
                                     const BusWindow** failed = nullptr) const noexcept;

    [[nodiscard]] ExitProfile profile() const noexcept { return profile_; }
    [[nodiscard]] GuestArch arch() const noexcept { return arch_; }
    [[nodiscard]] const std::shared_ptr<Buses>& buses() const noexcept { return buses_; }

private:
    using Bytes = std::span<std::uint8_t>;

    [[nodiscard]] ExitAction carry_out(const ExitAction& decided, const Exit& exit, std::span<std::byte> run_bytes,
                                       const BusWindow** failed) const noexcept;

    [[nodiscard]] const BusWindow* find(const Bus& bus, std::uint64_t address, std::uint64_t size) const noexcept;
    // Gives the window of a device that failed, or null.
    [[nodiscard]] const BusWindow* port_access(const IoExit& io, Bytes data, bool is_reset) const noexcept;
    [[nodiscard]] const BusWindow* port_element(const IoExit& io, const BusWindow* window,
                                                Bytes element) const noexcept;
    [[nodiscard]] const BusWindow* mmio_access(const MmioExit& mmio, std::span<std::byte> run_bytes) const noexcept;

    ExitProfile profile_;
    GuestArch arch_;  // the buses'; beside the profile, for what each exit asks for
    std::shared_ptr<Buses> buses_;
};

}  // namespace vmthaw
