#if defined(__x86_64__)

#include <linux/kvm.h>

#include "kvm/kvm_ioctl.hpp"
#include "kvm/vm.hpp"

namespace vmthaw {

void Vm::create_pit() const {
    guard_.check("Vm");
    kvm_pit_config config{};
    kvm_ioctl(fd_.get(), KVM_CREATE_PIT2, &config, "KVM_CREATE_PIT2");
}

kvm_irqchip Vm::irqchip(std::uint32_t chip) const {
    guard_.check("Vm");
    kvm_irqchip state{};
    state.chip_id = chip;
    kvm_ioctl(fd_.get(), KVM_GET_IRQCHIP, &state, "KVM_GET_IRQCHIP");
    return state;
}

void Vm::set_irqchip(const kvm_irqchip& chip) const {
    guard_.check("Vm");
    kvm_irqchip copy = chip;
    kvm_ioctl(fd_.get(), KVM_SET_IRQCHIP, &copy, "KVM_SET_IRQCHIP");
}

kvm_pit_state2 Vm::pit() const {
    guard_.check("Vm");
    kvm_pit_state2 state{};
    kvm_ioctl(fd_.get(), KVM_GET_PIT2, &state, "KVM_GET_PIT2");
    return state;
}

void Vm::set_pit(const kvm_pit_state2& pit) const {
    guard_.check("Vm");
    kvm_pit_state2 copy = pit;
    kvm_ioctl(fd_.get(), KVM_SET_PIT2, &copy, "KVM_SET_PIT2");
}

kvm_clock_data Vm::clock() const {
    guard_.check("Vm");
    kvm_clock_data clock{};
    kvm_ioctl(fd_.get(), KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK");
    return clock;
}

void Vm::set_clock(const kvm_clock_data& clock) const {
    guard_.check("Vm");
    kvm_clock_data copy = clock;
    kvm_ioctl(fd_.get(), KVM_SET_CLOCK, &copy, "KVM_SET_CLOCK");
}

}  // namespace vmthaw

#endif
