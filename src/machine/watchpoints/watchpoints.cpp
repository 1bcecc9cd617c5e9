#include "machine/watchpoints/watchpoints.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "machine/watchpoints/set_guest_debug.hpp"
#include "machine/watchpoints/watched_memory.hpp"

namespace vmthaw {
namespace {

bool is_aligned(const void* pointer) noexcept { return reinterpret_cast<std::uint64_t>(pointer) % kWatchBytes == 0; }

void check_wish(const WatchWish& wish, bool has_memory) {
    const std::uint64_t address = wish.target.guest_address;
    if (address == 0) {
        throw ArgumentError("address 0 cannot be watched: it stands for a slot that watches nothing");
    }
    if (wish.target.kind == WatchKind::write && address % kWatchBytes != 0) {
        throw ArgumentError("address " + hex(address) + " is not a multiple of 4: a slot watches four aligned bytes");
    }
    if (!is_aligned(wish.gate) || (wish.target.kind == WatchKind::write && !is_aligned(wish.bytes))) {
        throw ArgumentError("the gate and the bytes of a slot lie at a multiple of 4");
    }
    if (wish.backend == WatchBackend::none) {
        throw ArgumentError("nothing here serves watchpoints: neither debug registers nor read-only memory slots");
    }
    if (wish.backend == WatchBackend::read_only_page &&
        (wish.target.kind == WatchKind::execute || wish.bytes == nullptr || wish.guest_physical % kWatchBytes != 0 ||
         !has_memory)) {
        throw ArgumentError("a read-only page serves stores to memory that the host has, four aligned bytes of it");
    }
}

}  // namespace

Watchpoints::Watchpoints(std::size_t vcpus, WatchOptions options, std::shared_ptr<GuestMemory> memory)
    : options_(options), memory_(std::move(memory)), events_(options.event_capacity) {
    if (vcpus == 0) {
        throw ArgumentError("watchpoints need at least one vCPU");
    }
    for (std::size_t i = 0; i < vcpus; ++i) {
        vcpus_.push_back(std::make_unique<State>(kHostArch));
    }
}

void Watchpoints::check_slot(std::size_t slot) const {
    guard_.check("Watchpoints");
    if (slot >= kWatchSlots) {
        throw ArgumentError("there is no slot " + std::to_string(slot) + "; they are 0 to 3");
    }
}

Watchpoints::State& Watchpoints::state_of(std::size_t vcpu) const {
    guard_.check("Watchpoints");
    if (vcpu >= vcpus_.size()) {
        throw ArgumentError("there is no vCPU " + std::to_string(vcpu) + "; these watchpoints have " +
                            std::to_string(vcpus_.size()));
    }
    return *vcpus_[vcpu];
}

void Watchpoints::set(std::size_t slot, const WatchWish& wish) {
    check_slot(slot);
    check_wish(wish, memory_ != nullptr);
    const std::lock_guard lock(mutex_);
    board_.disarm(slot);
    (void)board_.event(slot).drain();
    last_.at(slot).store(wish.bytes != nullptr ? load_word(wish.bytes) : 0);
    board_.publish(slot, wish);
}

void Watchpoints::disarm(std::size_t slot) {
    check_slot(slot);
    const std::lock_guard lock(mutex_);
    board_.disarm(slot);
}

bool Watchpoints::latch(std::size_t slot) {
    guard_.check("Watchpoints");
    return board_.latch(slot);
}

bool Watchpoints::hit(std::size_t slot) const {
    check_slot(slot);
    return board_.hit(slot);
}

void Watchpoints::clear_hit(std::size_t slot) {
    check_slot(slot);
    const std::lock_guard lock(mutex_);
    board_.clear_hit(slot);
}

int Watchpoints::hit_eventfd(std::size_t slot) {
    check_slot(slot);
    return board_.event(slot).fd();
}

void Watchpoints::step(std::size_t vcpu, std::uint64_t instructions) { state_of(vcpu).steps.fetch_add(instructions); }

std::uint64_t Watchpoints::steps_left(std::size_t vcpu) const { return state_of(vcpu).steps.load(); }

std::uint64_t Watchpoints::foreign(std::size_t vcpu) const { return state_of(vcpu).foreign.load(); }

bool Watchpoints::is_disarmed(std::size_t vcpu) const { return state_of(vcpu).is_disarmed.load(); }

unsigned Watchpoints::requested(std::optional<WatchKind> kind) const {
    guard_.check("Watchpoints");
    const std::lock_guard lock(mutex_);
    unsigned slots = 0;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const auto reading = board_.read(slot);
        if (reading && reading->wish.target.guest_address != 0 &&
            reading->wish.target.kind == kind.value_or(reading->wish.target.kind)) {
            slots |= bit_of(slot);
        }
    }
    return slots;
}

unsigned Watchpoints::armed() const {
    guard_.check("Watchpoints");
    const std::lock_guard lock(mutex_);
    unsigned slots = 0;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const auto reading = board_.read(slot);
        if (!reading || reading->wish.target.guest_address == 0) {
            continue;
        }
        // A read-only page is in force for all as soon as it is there.
        const bool everywhere =
            reading->wish.backend == WatchBackend::read_only_page || std::ranges::all_of(vcpus_, [&](const auto& own) {
                return own->seen_version.load() == board_.version() && (own->armed.load() & bit_of(slot)) != 0;
            });
        slots |= everywhere ? bit_of(slot) : 0U;
    }
    return slots;
}

bool Watchpoints::wait_armed(std::uint64_t timeout_ns) const {
    constexpr auto kLookAgain = std::chrono::milliseconds(1);
    const std::uint64_t begin_ns = monotonic_ns();
    while (armed() != requested()) {
        if (monotonic_ns() - begin_ns >= timeout_ns) {
            return false;
        }
        std::this_thread::sleep_for(kLookAgain);
    }
    return true;
}

// A slot that is being changed is left for the next look, which the change brings about.
void Watchpoints::learn(State& own) noexcept {
    const std::uint64_t version = board_.version();
    if (version == own.version) {
        return;
    }
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        const auto reading = board_.read(slot);
        if (!reading) {
            return;
        }
        if (own.known.at(slot).number != reading->number) {
            own.latched_early &= ~bit_of(slot);
        }
        own.known.at(slot) = *reading;
        const bool by_registers = reading->wish.backend == WatchBackend::hardware;
        own.requests.at(slot) = by_registers ? WatchRequest{reading->number, reading->wish.target} : WatchRequest{};
    }
    own.version = version;
}

void Watchpoints::prepare(std::size_t index, Vcpu& vcpu) noexcept {
    State& own = *vcpus_[index];
    const bool steps = own.steps.load() != 0;
    own.is_active = own.is_active || steps || board_.any_armed();
    if (!own.is_active) {
        return;
    }
    learn(own);
    if (const auto setup = own.watch.prepare(own.requests, steps)) {
        own.watch.note_result(set_guest_debug(vcpu, *setup));
    }
    own.armed.store(own.watch.armed());
    own.is_disarmed.store(own.watch.is_disarmed());
    own.seen_version.store(own.version);
}

}  // namespace vmthaw
