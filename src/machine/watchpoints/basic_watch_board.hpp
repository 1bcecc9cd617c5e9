#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "vcpu/vcpu_watch.hpp"

namespace vmthaw {

// What serves a slot: the debug registers, or a read-only memory slot over the page.
enum class WatchBackend : std::uint8_t { none, hardware, read_only_page };

// A request as it stands on the board. Pointers are to memory that outlives the board.
struct WatchWish {
    WatchTarget target;
    const std::uint32_t* gate = nullptr;  // of slot 0: without one it never latches
    std::byte* bytes = nullptr;           // the host's view of the four bytes; null: nobody can read them
    std::uint64_t guest_physical = 0;     // of the same bytes; for read_only_page
    WatchBackend backend = WatchBackend::none;
    bool operator==(const WatchWish&) const = default;
};

// Where requests are published and hits are latched: one writer at a time, any number of vCPUs. The protocol alone:
// atomics and events are `Platform`'s, so that a test explores the interleavings of this very code.
//
// Every request has a number, one more with each publish and each disarm. It stands in one word with the hit, so that
// a vCPU which fires for a request that is over latches nothing of the next one.
//
// Publish: gate and bytes, then the address, then the any-armed gate. Disarm: the address, then the pointers, then
// number and hit.
template <typename Platform>
class BasicWatchBoard {
public:
    // Whoever publishes and disarms excludes others.
    void publish(std::size_t slot, const WatchWish& wish) {
        disarm(slot);
        Slot& place = slots_.at(slot);
        place.gate.store(reinterpret_cast<std::uint64_t>(wish.gate));
        place.bytes.store(reinterpret_cast<std::uint64_t>(wish.bytes));
        place.guest_physical.store(wish.guest_physical);
        place.tag.store(tag_of(wish));
        place.address.store(wish.target.guest_address);
        any_armed_.store(true);
        version_.store(version_.load() + 1);
    }

    void disarm(std::size_t slot) {
        Slot& place = slots_.at(slot);
        place.address.store(0);
        place.gate.store(0);
        place.bytes.store(0);
        place.guest_physical.store(0);
        place.tag.store(0);
        std::uint64_t state = place.state.load();
        while (!place.state.compare_exchange(state, (state | kHit) + 1)) {
        }
        version_.store(version_.load() + 1);
    }

    // Something was published once; never false again.
    [[nodiscard]] bool any_armed() const noexcept { return any_armed_.load(); }
    // Another one after each change, and after it.
    [[nodiscard]] std::uint64_t version() const noexcept { return version_.load(); }

    // A slot as it stands; nothing while it is being changed.
    struct Reading {
        std::uint64_t number = 0;
        WatchWish wish;
    };
    [[nodiscard]] std::optional<Reading> read(std::size_t slot) const noexcept {
        const Slot& place = slots_.at(slot);
        Reading reading;
        reading.number = number_of(place.state.load());
        reading.wish.target.guest_address = place.address.load();
        if (reading.wish.target.guest_address != 0) {
            // JUSTIFICATION: these are pointers that publish() was given; an atomic of pointers has no stand-in.
            reading.wish.gate = reinterpret_cast<const std::uint32_t*>(place.gate.load());
            reading.wish.bytes = reinterpret_cast<std::byte*>(place.bytes.load());
            reading.wish.guest_physical = place.guest_physical.load();
            const std::uint64_t tag = place.tag.load();
            reading.wish.target.kind = static_cast<WatchKind>(tag & 0xFFU);
            reading.wish.backend = static_cast<WatchBackend>(tag >> 8U);
        }
        // A disarm takes the address first and the number last.
        if (place.address.load() != reading.wish.target.guest_address ||
            number_of(place.state.load()) != reading.number) {
            return std::nullopt;
        }
        return reading;
    }

    // Compare and swap from false to true; only the winner signals. False for one that has it already, for a request
    // that is over, and for a slot that does not exist.
    bool latch(std::size_t slot, std::uint64_t number) noexcept {
        if (slot >= kWatchSlots) {
            return false;
        }
        std::uint64_t expected = number << 1U;
        if (!slots_[slot].state.compare_exchange(expected, expected | kHit)) {
            return false;
        }
        slots_[slot].event.signal();
        return true;
    }
    // By hand, whatever the slot asks for.
    bool latch(std::size_t slot) noexcept {
        return slot < kWatchSlots && latch(slot, number_of(slots_[slot].state.load()));
    }
    [[nodiscard]] bool hit(std::size_t slot) const noexcept {
        return slot < kWatchSlots && (slots_[slot].state.load() & kHit) != 0;
    }
    // Makes the slot latch again, for the same request. The event first: a latch between the two would lose its edge.
    void clear_hit(std::size_t slot) {
        Slot& place = slots_.at(slot);
        std::uint64_t state = place.state.load();
        if ((state & kHit) != 0) {
            (void)place.event.drain();
            (void)place.state.compare_exchange(state, state & ~kHit);
        }
    }
    [[nodiscard]] typename Platform::Event& event(std::size_t slot) { return slots_.at(slot).event; }

private:
    static constexpr std::uint64_t kHit = 1;
    static std::uint64_t number_of(std::uint64_t state) noexcept { return state >> 1U; }
    static std::uint64_t tag_of(const WatchWish& wish) noexcept {
        return std::uint64_t{static_cast<std::uint8_t>(wish.target.kind)} |
               std::uint64_t{static_cast<std::uint8_t>(wish.backend)} << 8U;
    }

    struct Slot {
        typename Platform::template Atomic<std::uint64_t> address{0};
        typename Platform::template Atomic<std::uint64_t> gate{0};
        typename Platform::template Atomic<std::uint64_t> bytes{0};
        typename Platform::template Atomic<std::uint64_t> guest_physical{0};
        typename Platform::template Atomic<std::uint64_t> tag{0};
        typename Platform::template Atomic<std::uint64_t> state{0};  // the request's number, and in bit 0 the hit
        typename Platform::Event event;
    };
    std::array<Slot, kWatchSlots> slots_;
    typename Platform::template Atomic<bool> any_armed_{false};
    typename Platform::template Atomic<std::uint64_t> version_{0};
};

}  // namespace vmthaw
