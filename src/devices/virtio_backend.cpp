#include "devices/virtio_backend.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {

IdleBackend::IdleBackend(std::uint32_t device_id, std::uint64_t features, std::size_t queue_count,
                         std::vector<std::uint8_t> config)
    : device_id_(device_id), features_(features), queue_count_(queue_count), config_(std::move(config)) {
    if (queue_count > kVirtioMostQueues) {
        throw ArgumentError("a virtio device has at most " + std::to_string(kVirtioMostQueues) + " queues here, not " +
                            std::to_string(queue_count));
    }
}

DeviceOutcome IdleBackend::read_config(std::uint64_t offset, std::span<std::uint8_t> out) noexcept {
    for (std::size_t i = 0; i < out.size(); ++i) {
        const bool inside = offset < config_.size() && i < config_.size() - offset;
        out[i] = inside ? config_[offset + i] : std::uint8_t{0};
    }
    return DeviceOutcome::done;
}

std::shared_ptr<VirtioBackend> make_idle_console() {
    // cols, rows, max_nr_ports, emerg_wr: all of them belong to features that are not offered.
    return std::make_shared<IdleBackend>(kVirtioConsole, 0, 2, std::vector<std::uint8_t>(12));
}

std::shared_ptr<VirtioBackend> make_idle_block(std::uint64_t sectors) {
    std::vector<std::uint8_t> config(8);
    std::memcpy(config.data(), &sectors, sizeof sectors);  // capacity, little-endian as every host that has KVM
    return std::make_shared<IdleBackend>(kVirtioBlock, 0, 1, std::move(config));
}

std::shared_ptr<VirtioBackend> make_idle_net(const std::array<std::uint8_t, 6>& mac) {
    constexpr std::uint64_t kHasMac = std::uint64_t{1} << 5U;
    return std::make_shared<IdleBackend>(kVirtioNet, kHasMac, 2, std::vector<std::uint8_t>(mac.begin(), mac.end()));
}

}  // namespace vmthaw
