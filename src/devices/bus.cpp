#include "devices/bus.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

std::string range(const BusWindow& window) {
    return "\"" + window.name + "\" (" + hex(window.first) + " to " + hex(window.last()) + ")";
}

}  // namespace

Bus::Bus(std::string name, std::uint64_t last_address) : name_(std::move(name)), last_address_(last_address) {}

void Bus::add(std::uint64_t first, std::uint64_t size_bytes, std::shared_ptr<Device> device, std::string name,
              std::uint64_t device_offset) {
    if (sealed_.load(std::memory_order_acquire)) {
        throw StateError("a dispatcher uses this " + name_ + " bus; add devices before it is made");
    }
    if (!device) {
        throw ArgumentError("the window \"" + name + "\" has no device");
    }
    if (size_bytes == 0) {
        throw ArgumentError("the window \"" + name + "\" is empty; give its size in bytes");
    }
    if (first > last_address_ || size_bytes - 1 > last_address_ - first) {
        throw ArgumentError("the window \"" + name + "\" of " + std::to_string(size_bytes) + " bytes at " + hex(first) +
                            " ends behind " + hex(last_address_) + ", the last address of the " + name_ + " bus");
    }
    if (device_offset > UINT64_MAX - (size_bytes - 1)) {
        throw ArgumentError("device_offset of the window \"" + name + "\" overflows");
    }
    BusWindow window{first, size_bytes, std::move(device), std::move(name), device_offset};
    const auto next = std::upper_bound(windows_.begin(), windows_.end(), first,
                                       [](std::uint64_t value, const BusWindow& other) { return value < other.first; });
    if (next != windows_.end() && next->first <= window.last()) {
        throw ArgumentError(range(window) + " overlaps " + range(*next) + " on the " + name_ + " bus");
    }
    if (next != windows_.begin() && std::prev(next)->last() >= first) {
        throw ArgumentError(range(window) + " overlaps " + range(*std::prev(next)) + " on the " + name_ + " bus");
    }
    windows_.insert(next, std::move(window));
}

[[gnu::hot]] const BusWindow* Bus::find(std::uint64_t address) const noexcept {
    const auto next = std::upper_bound(windows_.begin(), windows_.end(), address,
                                       [](std::uint64_t value, const BusWindow& other) { return value < other.first; });
    if (next == windows_.begin() || std::prev(next)->last() < address) {
        return nullptr;
    }
    return &*std::prev(next);
}

[[gnu::hot]] const BusWindow* Bus::find(std::uint64_t address, std::uint64_t size_bytes) const noexcept {
    const BusWindow* const window = find(address);
    if (window == nullptr || size_bytes == 0 || size_bytes - 1 > window->last() - address) {
        return nullptr;
    }
    return window;
}

}  // namespace vmthaw
