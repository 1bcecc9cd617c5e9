#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/virtio_mmio.hpp"
#include "fuzz_check.hpp"

// A driver that does anything: the status only advances in order, features that are agreed on were offered, a ready
// queue is one that can be, the back end hears of live queues alone, and the interrupt follows its causes.
namespace {

using vmthaw::DeviceOutcome;
using vmthaw::VirtioMmio;
using vmthaw::VirtioQueue;

constexpr std::uint64_t kOffered = std::uint64_t{0x21} | std::uint64_t{1} << 40U;

struct Heard {
    std::uint64_t activations = 0, resets = 0, notifications = 0;
    bool active = false;
    std::vector<VirtioQueue> queues;
};

class CheckedBackend final : public vmthaw::VirtioBackend {
public:
    explicit CheckedBackend(std::shared_ptr<Heard> heard) : heard_(std::move(heard)) {}
    std::uint32_t device_id() const noexcept override { return 1; }
    std::uint64_t features() const noexcept override { return kOffered; }
    std::size_t queue_count() const noexcept override { return 3; }
    DeviceOutcome read_config(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        FUZZ_CHECK(!out.empty() && out.size() <= 8 && offset <= UINT64_MAX - 0x100);
        std::ranges::fill(out, std::uint8_t{7});
        return DeviceOutcome::done;
    }
    DeviceOutcome write_config(std::uint64_t /*offset*/, std::span<const std::uint8_t> data) noexcept override {
        FUZZ_CHECK(!data.empty() && data.size() <= 8);
        return DeviceOutcome::done;
    }
    DeviceOutcome activate(std::uint64_t features, std::span<const VirtioQueue> queues) noexcept override {
        FUZZ_CHECK((features & ~(kOffered | vmthaw::kVirtioVersion1)) == 0 && !heard_->active && queues.size() == 3);
        heard_->active = true;
        ++heard_->activations;
        return DeviceOutcome::done;
    }
    DeviceOutcome reset() noexcept override {
        heard_->active = false;
        ++heard_->resets;
        return DeviceOutcome::done;
    }
    DeviceOutcome notify(std::size_t queue) noexcept override {
        FUZZ_CHECK(queue < 3 && heard_->active);
        ++heard_->notifications;
        return DeviceOutcome::done;
    }

private:
    std::shared_ptr<Heard> heard_;
};

class CheckedLine final : public vmthaw::InterruptLine {
public:
    DeviceOutcome set_level(bool next) noexcept override {
        FUZZ_CHECK(next != level);
        level = next;
        return DeviceOutcome::done;
    }
    bool level = false;
};

void check(const VirtioMmio::State& state, const Heard& heard, const CheckedLine& line) {
    const std::uint32_t steps = state.status & 0x0FU;
    FUZZ_CHECK(steps == 0 || steps == 1 || steps == 3 || steps == 11 || steps == 15);
    FUZZ_CHECK((state.status & ~std::uint32_t{0xCF}) == 0);
    FUZZ_CHECK(heard.active == (steps == 15));
    if ((steps & VirtioMmio::kFeaturesOk) != 0) {
        FUZZ_CHECK((state.driver_features & ~(kOffered | vmthaw::kVirtioVersion1)) == 0);
        FUZZ_CHECK((state.driver_features & vmthaw::kVirtioVersion1) != 0);
    }
    FUZZ_CHECK(state.interrupt_status <= 3 && (steps == 15 || state.interrupt_status == 0));
    FUZZ_CHECK(line.level == (state.interrupt_status != 0));
    for (std::size_t i = 0; i < state.queues.size(); ++i) {
        const VirtioQueue& queue = state.queues[i];
        FUZZ_CHECK(queue.size == 0 || (std::has_single_bit(queue.size) && queue.size <= VirtioMmio::kQueueEntries));
        FUZZ_CHECK(i < 3 || (!queue.ready && queue.size == 0));
        if (queue.ready) {
            FUZZ_CHECK((steps & VirtioMmio::kFeaturesOk) != 0 && queue.size > 0);
            FUZZ_CHECK(queue.descriptor_address % 16 == 0 && queue.driver_address % 2 == 0 &&
                       queue.device_address % 4 == 0);
            FUZZ_CHECK(UINT64_MAX - queue.descriptor_address >= 16U * queue.size);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const auto heard = std::make_shared<Heard>();
    const auto line = std::make_shared<CheckedLine>();
    VirtioMmio window(std::make_shared<CheckedBackend>(heard), line);
    while (input.remaining_bytes() > 0) {
        const std::uint64_t offset = input.ConsumeBool() ? input.ConsumeIntegralInRange<std::uint64_t>(0, 0x110) & ~3ULL
                                                         : input.ConsumeIntegral<std::uint64_t>();
        const std::size_t length = input.ConsumeBool() ? 4 : input.ConsumeIntegralInRange<std::size_t>(1, 8);
        switch (input.ConsumeIntegralInRange<int>(0, 5)) {
            case 0: {
                std::vector<std::uint8_t> out(length, 0xAA);
                const VirtioMmio::State before = window.state();
                FUZZ_CHECK(window.read(offset, out) == DeviceOutcome::done);
                FUZZ_CHECK(offset >= 0x100 || length == 4 || out == std::vector<std::uint8_t>(length, 0xFF));
                const VirtioMmio::State after = window.state();
                FUZZ_CHECK(before.status == after.status && before.interrupt_status == after.interrupt_status);
                break;
            }
            case 1:
                FUZZ_CHECK(window.signal_used() == DeviceOutcome::done);
                break;
            case 2:
                FUZZ_CHECK(window.signal_config_change() == DeviceOutcome::done);
                break;
            case 3:
                if (input.ConsumeIntegral<std::uint8_t>() == 0) {
                    FUZZ_CHECK(window.signal_needs_reset() == DeviceOutcome::done);
                }
                break;
            default: {
                std::vector<std::uint8_t> written = input.ConsumeBytes<std::uint8_t>(length);
                written.resize(length);
                FUZZ_CHECK(window.write(offset, written) == DeviceOutcome::done);
                break;
            }
        }
        check(window.state(), *heard, *line);
    }
    return 0;
}
