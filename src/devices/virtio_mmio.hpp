#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "base/fork_guard.hpp"
#include "devices/device.hpp"
#include "devices/interrupt_pin.hpp"
#include "devices/virtio_backend.hpp"

namespace vmthaw {

// The register window of a virtio device, version 2 (virtio 1.2, 4.2). Registers are 4 bytes wide: any other read there
// is 0xFF, such a write is ignored; the configuration behind them is read and written in 1 to 8 bytes, as drivers must.
// Status bits are accepted only in their order, features only as a subset of those offered, queues only while they may
// be set up; what is refused changes nothing and is counted. Writing status 0 resets. Thread-safe; the back end and the
// line are called without the lock. Inert after fork().
class VirtioMmio final : public Device {
public:
    static constexpr std::uint32_t kMagic = 0x74726976;  // "virt"
    static constexpr std::uint32_t kVersion = 2;
    static constexpr std::uint32_t kVendor = 0x57414854;  // "THAW"
    static constexpr std::uint32_t kQueueEntries = 256;

    enum Status : std::uint32_t {
        kAcknowledge = 1,
        kDriver = 2,
        kDriverOk = 4,
        kFeaturesOk = 8,
        kNeedsReset = 0x40,
        kFailed = 0x80,
    };

    // Throws ArgumentError without a back end, or with one of more queues than there may be.
    explicit VirtioMmio(std::shared_ptr<VirtioBackend> backend, std::shared_ptr<InterruptLine> interrupt = nullptr);

    [[nodiscard]] DeviceOutcome read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override;
    [[nodiscard]] DeviceOutcome write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept override;

    // From the back end's side: a buffer was used; the configuration changed; only a reset helps any more.
    [[nodiscard]] DeviceOutcome signal_used() noexcept;
    [[nodiscard]] DeviceOutcome signal_config_change() noexcept;
    [[nodiscard]] DeviceOutcome signal_needs_reset() noexcept;

    // What the driver has done so far; reading it changes nothing. Throws ForkedError.
    struct State {
        std::uint32_t status = 0;
        std::uint64_t driver_features = 0;
        std::uint32_t interrupt_status = 0;
        std::uint32_t config_generation = 0;
        std::uint64_t refused = 0;  // writes that changed nothing, since the beginning
        std::size_t queue_count = 0;
        std::array<VirtioQueue, kVirtioMostQueues> queues{};
    };
    [[nodiscard]] State state() const;
    [[nodiscard]] const std::shared_ptr<VirtioBackend>& backend() const noexcept { return backend_; }
    [[nodiscard]] std::uint64_t offered_features() const noexcept { return offered_; }

private:
    // What is left to do for the back end once the lock is free.
    struct Duty {
        enum class Kind : std::uint8_t { nothing, activate, reset, notify } kind = Kind::nothing;
        std::size_t queue = 0;
        std::uint64_t features = 0;
        std::array<VirtioQueue, kVirtioMostQueues> queues{};
    };

    [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const noexcept;
    // False when it was refused.
    [[nodiscard]] bool write_register(std::uint64_t offset, std::uint32_t value, Duty& duty) noexcept;
    [[nodiscard]] bool write_status(std::uint32_t value, Duty& duty) noexcept;
    [[nodiscard]] bool write_features(std::uint32_t value) noexcept;
    [[nodiscard]] bool write_queue(std::uint64_t offset, std::uint32_t value) noexcept;
    [[nodiscard]] bool make_ready(VirtioQueue& queue, std::uint32_t value) const noexcept;
    [[nodiscard]] bool is_live() const noexcept;
    [[nodiscard]] bool features_fit() const noexcept;
    [[nodiscard]] const VirtioQueue* selected() const noexcept;
    void reset_state() noexcept;
    [[nodiscard]] DeviceOutcome do_duty(const Duty& duty) noexcept;
    [[nodiscard]] DeviceOutcome signal(std::uint32_t cause) noexcept;

    ForkGuard guard_;
    std::shared_ptr<VirtioBackend> backend_;
    std::uint64_t offered_;
    InterruptPin pin_;
    mutable std::mutex mutex_;
    State state_;
    std::uint32_t device_features_page_ = 0, driver_features_page_ = 0, queue_selected_ = 0;
};

}  // namespace vmthaw
