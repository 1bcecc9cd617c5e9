#include "machine/freeze/freeze_coordinator.hpp"

#include <poll.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <string>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "machine/capture_registers.hpp"

namespace vmthaw {

void FreezePlatformBase::full_fence() noexcept {
#if defined(__SANITIZE_THREAD__)
    // The sanitizer knows no fences. This is one to the processor, and tells the sanitizer nothing.
    static std::atomic<unsigned> g_nothing{0};
    g_nothing.fetch_add(0, std::memory_order_relaxed);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

void wait_for_events(const std::array<const EventFd*, 3>& events, std::uint64_t timeout_ns) noexcept {
    std::array<pollfd, 3> polled{};
    nfds_t count = 0;
    for (const EventFd* const event : events) {
        if (event != nullptr) {
            polled.at(count++) = {event->fd(), POLLIN, 0};
        }
    }
    const int saved = errno;
    const timespec timeout{static_cast<time_t>(timeout_ns / kSecond_ns), static_cast<long>(timeout_ns % kSecond_ns)};
    (void)::ppoll(polled.data(), count, &timeout, nullptr);  // whatever it says, the caller looks again
    errno = saved;
}

void warn_of_failed_drain(std::size_t vcpu, int error) noexcept {
    std::array<char, 128> text{};
    std::snprintf(text.data(), text.size(),
                  "vCPU %zu parks with an unfinished instruction: KVM_RUN failed with errno %d", vcpu, error);
    log_line(LogLevel::warning, "freeze", text.data());
}

std::optional<RegisterSnapshot> FreezableVcpu::capture() noexcept { return read_registers(vcpu_); }

FreezeCoordinator::FreezeCoordinator(const std::vector<Vcpu*>& vcpus, FreezeEvents events) {
    std::vector<FreezableVcpu*> pointers;
    for (Vcpu* const vcpu : vcpus) {
        vcpus_.push_back(std::make_unique<FreezableVcpu>(*vcpu));
        pointers.push_back(vcpus_.back().get());
    }
    protocol_ = std::make_unique<Protocol>(pointers, events);
}

void FreezeCoordinator::check_index(std::size_t index) const {
    if (index >= vcpu_count()) {
        throw ArgumentError("there is no vCPU " + std::to_string(index) + "; this coordinator has " +
                            std::to_string(vcpu_count()));
    }
}

int FreezeCoordinator::parked_fd() noexcept {
    const EventFd* const event = protocol_->parked_event();
    return event != nullptr ? event->fd() : -1;
}

bool FreezeCoordinator::is_parked(std::size_t index) const {
    check_index(index);
    return protocol_->is_parked(index);
}

FreezeCoordinator::Attachment::Attachment(FreezeCoordinator& coordinator, std::size_t index)
    : coordinator_(coordinator), index_(index) {
    coordinator.guard_.check("FreezeCoordinator");
    coordinator.check_index(index);
    coordinator.protocol_->attach(index);
}

FreezeCoordinator::Attachment::~Attachment() {
    if (!coordinator_.guard_.inherited()) {
        coordinator_.protocol_->detach(index_);
    }
}

void FreezeCoordinator::begin_freeze() {
    guard_.check("FreezeCoordinator");
    protocol_->begin_freeze();
}

FreezeCoordinator::Outcome FreezeCoordinator::freeze(std::uint64_t timeout_ns) {
    guard_.check("FreezeCoordinator");
    return protocol_->freeze(timeout_ns);
}

void FreezeCoordinator::thaw() {
    guard_.check("FreezeCoordinator");
    protocol_->thaw();
}

void FreezeCoordinator::nudge() {
    guard_.check("FreezeCoordinator");
    protocol_->nudge();
}

void FreezeCoordinator::kill() {
    guard_.check("FreezeCoordinator");
    protocol_->kill();
}

}  // namespace vmthaw
