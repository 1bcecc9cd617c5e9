#include "devices/virtio_mmio.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

// Registers: virtio 1.2, table 4.1.
constexpr std::uint64_t kMagicValue = 0x000, kVersionRegister = 0x004, kDeviceId = 0x008, kVendorId = 0x00C;
constexpr std::uint64_t kDeviceFeatures = 0x010, kDeviceFeaturesSel = 0x014;
constexpr std::uint64_t kDriverFeatures = 0x020, kDriverFeaturesSel = 0x024;
constexpr std::uint64_t kQueueSel = 0x030, kQueueNumMax = 0x034, kQueueNum = 0x038, kQueueReady = 0x044;
constexpr std::uint64_t kQueueNotify = 0x050, kInterruptStatus = 0x060, kInterruptAck = 0x064, kStatusRegister = 0x070;
constexpr std::uint64_t kQueueDescLow = 0x080, kQueueDescHigh = 0x084;
constexpr std::uint64_t kQueueDriverLow = 0x090, kQueueDriverHigh = 0x094;
constexpr std::uint64_t kQueueDeviceLow = 0x0A0, kQueueDeviceHigh = 0x0A4;
constexpr std::uint64_t kSharedMemoryFirst = 0x0B0, kSharedMemoryLast = 0x0BC;  // length and base of a region
constexpr std::uint64_t kSharedMemorySel = 0x0AC;
constexpr std::uint64_t kConfigGeneration = 0x0FC, kConfig = 0x100;

constexpr std::uint32_t kUsedBuffer = 1, kConfigChange = 2;  // causes of an interrupt

std::uint32_t half_of(std::uint64_t value, std::uint32_t page) noexcept {
    return page > 1 ? 0 : static_cast<std::uint32_t>(value >> (32U * page));
}

void set_half(std::uint64_t& value, std::uint32_t page, std::uint32_t half) noexcept {
    const unsigned shift = 32U * page;
    value = (value & ~(std::uint64_t{0xFFFFFFFF} << shift)) | std::uint64_t{half} << shift;
}

// `bytes` from `address` on, aligned, do not wrap round.
bool fits(std::uint64_t address, std::uint64_t alignment, std::uint64_t bytes) noexcept {
    return address % alignment == 0 && bytes <= UINT64_MAX - address;
}

std::shared_ptr<VirtioBackend> checked(std::shared_ptr<VirtioBackend> backend) {
    if (!backend) {
        throw ArgumentError("a virtio window needs a back end");
    }
    if (backend->queue_count() > kVirtioMostQueues) {
        throw ArgumentError("the back end has " + std::to_string(backend->queue_count()) + " queues; " +
                            std::to_string(kVirtioMostQueues) + " is the most");
    }
    return backend;
}

}  // namespace

VirtioMmio::VirtioMmio(std::shared_ptr<VirtioBackend> backend, std::shared_ptr<InterruptLine> interrupt)
    : backend_(checked(std::move(backend))),
      offered_(backend_->features() | kVirtioVersion1),
      pin_(std::move(interrupt)) {
    state_.queue_count = backend_->queue_count();
}

bool VirtioMmio::is_live() const noexcept {
    return (state_.status & kDriverOk) != 0 && (state_.status & (kFailed | kNeedsReset)) == 0;
}

const VirtioQueue* VirtioMmio::selected() const noexcept {
    return queue_selected_ < state_.queue_count ? &state_.queues[queue_selected_] : nullptr;
}

std::uint32_t VirtioMmio::read_register(std::uint64_t offset) const noexcept {
    switch (offset) {
        case kMagicValue:
            return kMagic;
        case kVersionRegister:
            return kVersion;
        case kDeviceId:
            return backend_->device_id();
        case kVendorId:
            return kVendor;
        case kDeviceFeatures:
            return half_of(offered_, device_features_page_);
        case kQueueNumMax:
            return selected() != nullptr ? kQueueEntries : 0;
        case kQueueReady:
            return selected() != nullptr && selected()->ready ? 1 : 0;
        case kInterruptStatus:
            return state_.interrupt_status;
        case kStatusRegister:
            return state_.status;
        case kConfigGeneration:
            return state_.config_generation;
        default:
            // A shared memory region that is not there has length and base -1; all else is write-only or reserved.
            return offset >= kSharedMemoryFirst && offset <= kSharedMemoryLast && offset % 4 == 0 ? 0xFFFFFFFF : 0;
    }
}

bool VirtioMmio::features_fit() const noexcept {
    return (state_.driver_features & ~offered_) == 0 && (state_.driver_features & kVirtioVersion1) != 0;
}

void VirtioMmio::reset_state() noexcept {
    state_.status = 0;
    state_.driver_features = 0;
    state_.interrupt_status = 0;
    state_.queues = {};
    device_features_page_ = 0;
    driver_features_page_ = 0;
    queue_selected_ = 0;
}

bool VirtioMmio::write_status(std::uint32_t value, Duty& duty) noexcept {
    if (value == 0) {
        reset_state();
        duty.kind = Duty::Kind::reset;
        return true;
    }
    const std::uint32_t now = state_.status & ~std::uint32_t{kNeedsReset};  // that bit is the device's
    const std::uint32_t added = value & ~state_.status;
    if ((now & ~value) != 0) {
        return false;  // a bit was cleared without a reset
    }
    if (added == 0) {
        return true;
    }
    if (added == kFailed) {
        state_.status |= kFailed;
        return true;
    }
    if ((state_.status & (kFailed | kNeedsReset)) != 0) {
        return false;
    }
    const bool in_order = (now == 0 && added == kAcknowledge) || (now == kAcknowledge && added == kDriver) ||
                          (now == (kAcknowledge | kDriver) && added == kFeaturesOk && features_fit()) ||
                          (now == (kAcknowledge | kDriver | kFeaturesOk) && added == kDriverOk);
    if (!in_order) {
        return false;
    }
    state_.status |= added;
    if (added == kDriverOk) {
        duty.kind = Duty::Kind::activate;
        duty.features = state_.driver_features;
        duty.queues = state_.queues;
    }
    return true;
}

bool VirtioMmio::write_features(std::uint32_t value) noexcept {
    if (state_.status != (kAcknowledge | kDriver)) {
        return false;
    }
    if (driver_features_page_ > 1) {
        return value == 0;  // nothing is offered there
    }
    set_half(state_.driver_features, driver_features_page_, value);
    return true;
}

bool VirtioMmio::make_ready(VirtioQueue& queue, std::uint32_t value) const noexcept {
    if (value == 0) {
        queue.ready = false;
        return true;
    }
    // Sizes and alignments: virtio 1.2, 2.7.
    const std::uint64_t entries = queue.size;
    const bool right = value == 1 && entries > 0 && fits(queue.descriptor_address, 16, 16 * entries) &&
                       fits(queue.driver_address, 2, 6 + 2 * entries) && fits(queue.device_address, 4, 6 + 8 * entries);
    queue.ready = queue.ready || right;
    return right;
}

bool VirtioMmio::write_queue(std::uint64_t offset, std::uint32_t value) noexcept {
    const std::uint32_t set_up = kAcknowledge | kDriver | kFeaturesOk;
    if (queue_selected_ >= state_.queue_count || (state_.status & ~std::uint32_t{kDriverOk}) != set_up) {
        return false;
    }
    VirtioQueue& queue = state_.queues[queue_selected_];
    if (offset == kQueueReady && value == 0) {
        return make_ready(queue, value);
    }
    if (state_.status != set_up || queue.ready) {
        return false;
    }
    switch (offset) {
        case kQueueNum:
            if (!std::has_single_bit(value) || value > kQueueEntries) {
                return false;
            }
            queue.size = static_cast<std::uint16_t>(value);
            return true;
        case kQueueReady:
            return make_ready(queue, value);
        case kQueueDescLow:
        case kQueueDescHigh:
            set_half(queue.descriptor_address, offset == kQueueDescHigh ? 1 : 0, value);
            return true;
        case kQueueDriverLow:
        case kQueueDriverHigh:
            set_half(queue.driver_address, offset == kQueueDriverHigh ? 1 : 0, value);
            return true;
        case kQueueDeviceLow:
        case kQueueDeviceHigh:
            set_half(queue.device_address, offset == kQueueDeviceHigh ? 1 : 0, value);
            return true;
        default:
            return false;
    }
}

bool VirtioMmio::write_register(std::uint64_t offset, std::uint32_t value, Duty& duty) noexcept {
    switch (offset) {
        case kDeviceFeaturesSel:
            device_features_page_ = value;
            return true;
        case kDriverFeatures:
            return write_features(value);
        case kDriverFeaturesSel:
            driver_features_page_ = value;
            return true;
        case kQueueSel:
            queue_selected_ = value;
            return true;
        case kSharedMemorySel:
            return true;  // every region is one that is not there
        case kQueueNotify:
            if (!is_live() || value >= state_.queue_count || !state_.queues[value].ready) {
                return false;
            }
            duty.kind = Duty::Kind::notify;
            duty.queue = value;
            return true;
        case kInterruptAck:
            state_.interrupt_status &= ~value;
            return true;
        case kStatusRegister:
            return write_status(value, duty);
        default:
            return write_queue(offset, value);
    }
}

DeviceOutcome VirtioMmio::read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept {
    if (offset >= kConfig && !guard_.inherited()) {
        return backend_->read_config(offset - kConfig, out);
    }
    std::ranges::fill(out, std::uint8_t{0xFF});
    if (out.size() != sizeof(std::uint32_t) || guard_.inherited()) {
        return DeviceOutcome::done;
    }
    const std::lock_guard lock(mutex_);
    const std::uint32_t value = read_register(offset);
    std::memcpy(out.data(), &value, sizeof value);
    return DeviceOutcome::done;
}

DeviceOutcome VirtioMmio::write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept {
    if (guard_.inherited()) {
        return DeviceOutcome::done;
    }
    Duty duty;
    bool to_config = false;
    {
        const std::lock_guard lock(mutex_);
        bool taken = false;
        if (offset >= kConfig) {
            taken = to_config = (state_.status & kDriver) != 0 && (state_.status & kFailed) == 0;
        } else if (data.size() == sizeof(std::uint32_t)) {
            std::uint32_t value = 0;
            std::memcpy(&value, data.data(), sizeof value);
            taken = write_register(offset, value, duty);
        }
        state_.refused += taken ? 0 : 1;
        pin_.set(state_.interrupt_status != 0);
    }
    const DeviceOutcome outcome = to_config ? backend_->write_config(offset - kConfig, data) : do_duty(duty);
    const DeviceOutcome delivered = pin_.deliver();
    return outcome == DeviceOutcome::failed ? outcome : delivered;
}

DeviceOutcome VirtioMmio::do_duty(const Duty& duty) noexcept {
    switch (duty.kind) {
        case Duty::Kind::activate:
            return backend_->activate(duty.features, std::span(duty.queues).first(backend_->queue_count()));
        case Duty::Kind::reset:
            return backend_->reset();
        case Duty::Kind::notify:
            return backend_->notify(duty.queue);
        default:
            return DeviceOutcome::done;
    }
}

DeviceOutcome VirtioMmio::signal(std::uint32_t cause) noexcept {
    if (guard_.inherited()) {
        return DeviceOutcome::done;
    }
    {
        const std::lock_guard lock(mutex_);
        // Before DRIVER_OK the driver must not be told anything (virtio 1.2, 3.1.1).
        if ((state_.status & kDriverOk) != 0) {
            state_.interrupt_status |= cause;
        }
        pin_.set(state_.interrupt_status != 0);
    }
    return pin_.deliver();
}

DeviceOutcome VirtioMmio::signal_used() noexcept { return signal(kUsedBuffer); }

DeviceOutcome VirtioMmio::signal_config_change() noexcept {
    if (!guard_.inherited()) {
        const std::lock_guard lock(mutex_);
        ++state_.config_generation;
    }
    return signal(kConfigChange);
}

DeviceOutcome VirtioMmio::signal_needs_reset() noexcept {
    if (!guard_.inherited()) {
        const std::lock_guard lock(mutex_);
        state_.status |= kNeedsReset;
    }
    return signal(kConfigChange);
}

VirtioMmio::State VirtioMmio::state() const {
    guard_.check("VirtioMmio");
    const std::lock_guard lock(mutex_);
    return state_;
}

}  // namespace vmthaw
