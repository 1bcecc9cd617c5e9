#include "machine/dispatcher.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMmioData = kKvmRunPayload + offsetof(KvmRunMmio, data);

}  // namespace

Dispatcher::Dispatcher(ExitProfile profile, std::shared_ptr<Buses> buses)
    : profile_(profile), arch_(buses ? buses->arch() : kHostArch), buses_(std::move(buses)) {
    if (!buses_) {
        throw ArgumentError("a dispatcher needs buses");
    }
    buses_->seal();
}

// The lenient profile asks where an access begins, the strict one that all of it is inside.
[[gnu::hot]] const BusWindow* Dispatcher::find(const Bus& bus, std::uint64_t address,
                                               std::uint64_t size) const noexcept {
    return profile_ == ExitProfile::lenient ? bus.find(address) : bus.find(address, size);
}

[[gnu::hot]] const BusWindow* Dispatcher::port_element(const IoExit& io, const BusWindow* window,
                                                       Bytes element) const noexcept {
    if (!io.is_write && profile_ == ExitProfile::strict) {
        std::ranges::fill(element, std::uint8_t{0xFF});  // a bus that nobody drives
    }
    if (window == nullptr) {
        return nullptr;
    }
    const std::uint64_t offset = window->offset_of(io.port);
    const Bytes part = element.first(std::min(element.size(), window->device->width_bytes()));
    const DeviceOutcome outcome =
        io.is_write ? window->device->write(offset, part) : window->device->read(offset, part);
    return outcome == DeviceOutcome::failed ? window : nullptr;
}

[[gnu::hot]] const BusWindow* Dispatcher::port_access(const IoExit& io, Bytes data, bool is_reset) const noexcept {
    const BusWindow* const window = find(buses_->ports(), io.port, io.size_bytes);
    const std::uint32_t count = profile_ == ExitProfile::strict ? io.count : 1;
    for (std::uint32_t i = 0; i < count; ++i) {
        const Bytes element = data.subspan(std::size_t{i} * io.size_bytes, io.size_bytes);
        if (const BusWindow* const failed = port_element(io, window, element); failed != nullptr) {
            return failed;
        }
        if (is_reset && element.front() == kI8042Reset) {
            break;  // what follows would never have been sent
        }
    }
    return nullptr;
}

[[gnu::hot]] const BusWindow* Dispatcher::mmio_access(const MmioExit& mmio,
                                                      std::span<std::byte> run_bytes) const noexcept {
    const std::size_t size = std::min<std::size_t>(mmio.size_bytes, mmio.data.size());
    if (size == 0) {
        return nullptr;
    }
    const BusWindow* const window = find(buses_->mmio(), mmio.guest_address, size);
    if (mmio.is_write) {
        if (window == nullptr) {
            return nullptr;
        }
        const auto data = std::span(mmio.data).first(std::min(size, window->device->width_bytes()));
        const DeviceOutcome outcome = window->device->write(window->offset_of(mmio.guest_address), data);
        return outcome == DeviceOutcome::failed ? window : nullptr;
    }
    std::array<std::uint8_t, 8> answer{};
    auto outcome = DeviceOutcome::done;
    if (window == nullptr) {
        answer.fill(0xFF);
    } else {
        outcome = window->device->read(window->offset_of(mmio.guest_address), Bytes(answer).first(size));
    }
    std::memcpy(run_bytes.data() + kMmioData, answer.data(), size);
    return outcome == DeviceOutcome::failed ? window : nullptr;
}

ExitAction Dispatcher::handle(const Exit& exit, std::span<std::byte> run_bytes,
                              const BusWindow** failed) const noexcept {
    return carry_out(exit_action(profile_, arch_, exit, io_data_of(exit, run_bytes)), exit, run_bytes, failed);
}

[[gnu::hot]] ExitAction Dispatcher::perform(const Exit& exit, std::span<std::byte> run_bytes,
                                            const BusWindow** failed) const noexcept {
    return carry_out(exit.action, exit, run_bytes, failed);
}

[[gnu::hot]] ExitAction Dispatcher::carry_out(const ExitAction& decided, const Exit& exit,
                                              std::span<std::byte> run_bytes, const BusWindow** failed) const noexcept {
    if (failed != nullptr) {
        *failed = nullptr;
    }
    // By parts and in place, always: a copy as a whole would wait for its parts to be stored.
    ExitAction action;
    action.kind = decided.kind;
    if (decided.reason) {
        action.reason = *decided.reason;
    }
    if (action.kind != ExitActionKind::continue_ && action.kind != ExitActionKind::shutdown) {
        return action;
    }
    const BusWindow* broken = nullptr;
    if (const auto* io = std::get_if<IoExit>(&exit.payload)) {
        const std::size_t size = io_data_of(exit, run_bytes).size();
        if (size == 0) {
            action = {ExitActionKind::fatal, exit.reason};
            return action;
        }
        // JUSTIFICATION: the kernel gives the elements as bytes, and they lie in a mapping of ours.
        auto* const data = reinterpret_cast<std::uint8_t*>(run_bytes.data() + io->data_offset);
        broken = port_access(*io, {data, size}, action.kind == ExitActionKind::shutdown);
    } else if (const auto* mmio = std::get_if<MmioExit>(&exit.payload)) {
        if (run_bytes.size() < kMmioData + sizeof(KvmRunMmio::data)) {
            action = {ExitActionKind::fatal, exit.reason};
            return action;
        }
        broken = mmio_access(*mmio, run_bytes);
    }
    if (failed != nullptr) {
        *failed = broken;
    }
    if (broken != nullptr) {
        action = {ExitActionKind::fatal, {}};
    }
    return action;
}

}  // namespace vmthaw
