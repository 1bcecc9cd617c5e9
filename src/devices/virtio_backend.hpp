#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/device.hpp"

namespace vmthaw {

// Where the driver put one queue, in guest-physical memory, unchecked but for alignment and overflow.
struct VirtioQueue {
    std::uint16_t size = 0;  // entries, a power of two
    bool ready = false;
    std::uint64_t descriptor_address = 0, driver_address = 0, device_address = 0;
};

inline constexpr std::uint64_t kVirtioVersion1 = std::uint64_t{1} << 32U;
inline constexpr std::uint32_t kVirtioNet = 1, kVirtioBlock = 2, kVirtioConsole = 3;
inline constexpr std::size_t kVirtioMostQueues = 16;

// What a virtio window stands for. device_id(), features() and queue_count() never change. The rest is called by vCPU
// threads, without any lock of the window's: several at once and in any order, if the guest wants that; offsets and
// sizes are hostile.
class VirtioBackend {
public:
    VirtioBackend() = default;
    VirtioBackend(const VirtioBackend&) = delete;
    VirtioBackend& operator=(const VirtioBackend&) = delete;
    virtual ~VirtioBackend() = default;

    [[nodiscard]] virtual std::uint32_t device_id() const noexcept = 0;
    // Offered beside VIRTIO_F_VERSION_1, which every window has.
    [[nodiscard]] virtual std::uint64_t features() const noexcept = 0;
    [[nodiscard]] virtual std::size_t queue_count() const noexcept = 0;  // at most kVirtioMostQueues
    [[nodiscard]] virtual DeviceOutcome read_config(std::uint64_t offset, std::span<std::uint8_t> out) noexcept = 0;
    [[nodiscard]] virtual DeviceOutcome write_config(std::uint64_t offset,
                                                     std::span<const std::uint8_t> data) noexcept = 0;
    // The driver is ready, with the features that both have.
    [[nodiscard]] virtual DeviceOutcome activate(std::uint64_t features,
                                                 std::span<const VirtioQueue> queues) noexcept = 0;
    // The driver starts over: queues are gone.
    [[nodiscard]] virtual DeviceOutcome reset() noexcept = 0;
    // There is something in a queue that is ready.
    [[nodiscard]] virtual DeviceOutcome notify(std::size_t queue) noexcept = 0;
};

// A device that is there and serves nothing: it has an identity, features and a configuration that drivers read. What
// they write there is dropped, bytes behind its end are 0.
class IdleBackend final : public VirtioBackend {
public:
    // Throws ArgumentError for more queues than there may be.
    IdleBackend(std::uint32_t device_id, std::uint64_t features, std::size_t queue_count,
                std::vector<std::uint8_t> config);

    [[nodiscard]] std::uint32_t device_id() const noexcept override { return device_id_; }
    [[nodiscard]] std::uint64_t features() const noexcept override { return features_; }
    [[nodiscard]] std::size_t queue_count() const noexcept override { return queue_count_; }
    [[nodiscard]] DeviceOutcome read_config(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override;
    [[nodiscard]] DeviceOutcome write_config(std::uint64_t /*offset*/,
                                             std::span<const std::uint8_t> /*data*/) noexcept override {
        return DeviceOutcome::done;
    }
    [[nodiscard]] DeviceOutcome activate(std::uint64_t /*features*/,
                                         std::span<const VirtioQueue> /*queues*/) noexcept override {
        return DeviceOutcome::done;
    }
    [[nodiscard]] DeviceOutcome reset() noexcept override { return DeviceOutcome::done; }
    [[nodiscard]] DeviceOutcome notify(std::size_t /*queue*/) noexcept override { return DeviceOutcome::done; }

private:
    std::uint32_t device_id_;
    std::uint64_t features_;
    std::size_t queue_count_;
    std::vector<std::uint8_t> config_;
};

// The three of the standard windows, by virtio 1.2: a console with one port (5.3), a disk of so many 512-byte sectors
// (5.2), a network card with this address (5.1).
[[nodiscard]] std::shared_ptr<VirtioBackend> make_idle_console();
[[nodiscard]] std::shared_ptr<VirtioBackend> make_idle_block(std::uint64_t sectors);
[[nodiscard]] std::shared_ptr<VirtioBackend> make_idle_net(const std::array<std::uint8_t, 6>& mac);

}  // namespace vmthaw
