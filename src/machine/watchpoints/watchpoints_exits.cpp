// What the vCPUs' exits meant: debug exits, and stores to pages that are read-only for their sake.
#include <algorithm>
#include <span>

#include "base/clock.hpp"
#include "machine/capture_registers.hpp"
#include "machine/watchpoints/watched_memory.hpp"
#include "machine/watchpoints/watchpoints.hpp"

namespace vmthaw {

WatchAnswer Watchpoints::handle(std::size_t index, Vcpu& vcpu, const Exit& exit, RunResult& outcome) noexcept {
    if (!vcpus_[index]->is_active) {
        return WatchAnswer::not_ours;
    }
    if (const auto* const debug = std::get_if<DebugExit>(&exit.payload)) {
        return on_debug(index, vcpu, *debug);
    }
    if (const auto* const mmio = std::get_if<MmioExit>(&exit.payload); mmio != nullptr && mmio->is_write) {
        return on_store(index, vcpu, *mmio, outcome);
    }
    return WatchAnswer::not_ours;
}

bool Watchpoints::is_gate_open(std::size_t slot, const WatchWish& wish) const noexcept {
    return slot != 0 || (wish.gate != nullptr && load_word(wish.gate) >= options_.gate_threshold);
}

void Watchpoints::fire(std::size_t slot, const Board::Reading& request, WatchEvent event, bool latches) noexcept {
    if (!is_gate_open(slot, request.wish)) {
        return;
    }
    event.t_ns = monotonic_ns();
    event.guest_address = request.wish.target.guest_address;
    event.slot = static_cast<std::uint8_t>(slot);
    event.kind = request.wish.target.kind == WatchKind::write ? WatchEventKind::write : WatchEventKind::execute;
    event.backend = static_cast<std::uint8_t>(request.wish.backend);
    event.has_latched = (latches && board_.latch(slot, request.number)) || event.has_latched;
    (void)events_.push(event);
}

WatchAnswer Watchpoints::on_debug(std::size_t index, Vcpu& vcpu, const DebugExit& debug) noexcept {
    State& own = *vcpus_[index];
    const auto registers = read_registers(vcpu);
    WatchEvent event;
    event.vcpu = static_cast<std::uint16_t>(index);
    event.has_instruction_pointer = registers.has_value();
    event.instruction_pointer = registers ? registers->instruction_pointer : 0;
    const unsigned rested = own.watch.step_mask();
    const WatchVerdict verdict = own.watch.on_exit(debug, event.instruction_pointer);
    if (verdict.foreign) {
        own.foreign.fetch_add(1);
    }
    const unsigned rests = own.watch.step_mask();
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const Board::Reading& request = own.known.at(slot);
        const bool is_store = request.wish.target.kind == WatchKind::write;
        const bool is_latched_now = (verdict.latch & bit_of(slot)) != 0;
        const std::byte* const bytes = is_store ? request.wish.bytes : nullptr;
        event.has_bytes = bytes != nullptr;
        event.has_latched = false;
        if ((verdict.fired & rests & bit_of(slot)) != 0 && is_store) {
            // The store comes with the next step, and the event after it. The hit does not wait, but slot 0's.
            own.before.at(slot) = bytes != nullptr ? load_word(bytes) : 0;
            own.latched_early |= is_latched_now && board_.latch(slot, request.number) ? bit_of(slot) : 0U;
        } else if ((rested & ~rests & bit_of(slot)) != 0 && is_store && !verdict.foreign) {
            event.before = own.before.at(slot);
            event.after = bytes != nullptr ? load_word(bytes) : 0;
            event.has_latched = (own.latched_early & bit_of(slot)) != 0;
            own.latched_early &= ~bit_of(slot);
            fire(slot, request, event, is_latched_now);
        } else if (is_latched_now) {
            event.after = bytes != nullptr ? load_word(bytes) : 0;
            event.before = bytes != nullptr ? last_.at(slot).exchange(event.after) : 0;
            fire(slot, request, event, true);
        }
    }
    if (verdict.stepped && own.steps.load() != 0) {
        own.steps.fetch_sub(1);
        event.kind = WatchEventKind::step;
        event.t_ns = monotonic_ns();
        event.guest_address = 0;
        event.slot = 0;
        event.before = event.after = 0;
        event.has_bytes = event.has_latched = false;
        event.backend = static_cast<std::uint8_t>(WatchBackend::hardware);
        (void)events_.push(event);
    }
    // A slot that must rest, and cannot be made to, would fire for ever: the run has to end.
    return own.watch.has_struck_out() && (rests != 0 || own.watch.is_disarmed()) ? WatchAnswer::not_ours
                                                                                 : WatchAnswer::handled;
}

// What one instruction stored, in one exit or several.
struct Watchpoints::Store {
    unsigned touched = 0;
    std::array<std::uint32_t, kWatchSlots> before{};
};

bool Watchpoints::apply(const State& own, const MmioExit& mmio, Store& store) const noexcept {
    const std::uint64_t offset = mmio.guest_address % kWatchedPageBytes;
    const std::uint64_t page = mmio.guest_address - offset;
    const std::size_t size = std::min<std::size_t>(mmio.size_bytes, mmio.data.size());
    if (size > kWatchedPageBytes - offset) {
        return false;
    }
    bool is_watched = false;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const WatchWish& wish = own.known.at(slot).wish;
        const std::uint64_t within = wish.guest_physical % kWatchedPageBytes;
        if (wish.backend != WatchBackend::read_only_page || wish.guest_physical - within != page) {
            continue;
        }
        is_watched = true;
        const bool meets = within < offset + size && offset < within + kWatchBytes;
        if (meets && (store.touched & bit_of(slot)) == 0) {
            store.touched |= bit_of(slot);
            store.before.at(slot) = load_word(wish.bytes);
        }
    }
    return is_watched && memory_->store(mmio.guest_address, std::span(mmio.data).first(size));
}

WatchAnswer Watchpoints::on_store(std::size_t index, Vcpu& vcpu, const MmioExit& mmio, RunResult& outcome) noexcept {
    const State& own = *vcpus_[index];
    Store store;
    if (!apply(own, mmio, store)) {
        return WatchAnswer::not_ours;
    }
    // The instruction is completed before anybody hears of it; one that stores more than 8 bytes comes out again with
    // the rest.
    auto answer = WatchAnswer::handled;
    for (bool has_more = true; has_more;) {
        has_more = false;
        vcpu.set_immediate_exit(true);
        const RunResult completed = vcpu.run();
        vcpu.set_immediate_exit(false);
        const Exit next = decode_exit(kHostArch, completed.result, completed.errno_value, vcpu.run_bytes());
        if (next.is_interrupted()) {
            continue;
        }
        const auto* const rest = std::get_if<MmioExit>(&next.payload);
        has_more = next.has_reason && rest != nullptr && rest->is_write && apply(own, *rest, store);
        if (!has_more) {
            outcome = completed;
            answer = WatchAnswer::again;
        }
    }
    const auto registers = store.touched != 0 ? read_registers(vcpu) : std::nullopt;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        if ((store.touched & bit_of(slot)) == 0) {
            continue;
        }
        const Board::Reading& request = own.known.at(slot);
        WatchEvent event;
        event.vcpu = static_cast<std::uint16_t>(index);
        event.has_instruction_pointer = registers.has_value();
        event.instruction_pointer = registers ? registers->instruction_pointer : 0;
        event.has_bytes = true;
        event.before = store.before.at(slot);
        event.after = load_word(request.wish.bytes);
        fire(slot, request, event, true);
    }
    return answer;
}

}  // namespace vmthaw
