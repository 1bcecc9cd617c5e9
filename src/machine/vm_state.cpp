#include "machine/vm_state.hpp"

#include <cerrno>
#include <utility>

#include "base/error.hpp"
#include "machine/state_bytes.hpp"

namespace vmthaw {
namespace {

// Sizes of x86-64's structures, so that a state file can be checked on any host.
struct VmPartShape {
    const char* name;
    std::uint64_t bytes;
};
constexpr std::array<VmPartShape, kVmParts> kVmShapes{
    {{"pic_master", 520}, {"pic_slave", 520}, {"ioapic", 520}, {"pit", 112}, {"clock", 48}}};

}  // namespace

const char* vm_part_name(VmPart part) noexcept {
    const auto index = static_cast<std::size_t>(part);
    return index < kVmParts ? kVmShapes[index].name : "unknown";
}

bool is_vm_part_size(VmPart part, std::uint64_t size_bytes) noexcept {
    const auto index = static_cast<std::size_t>(part);
    return index < kVmParts && (size_bytes == 0 || size_bytes == kVmShapes[index].bytes);
}

#if defined(__x86_64__)

static_assert(sizeof(kvm_irqchip) == 520 && sizeof(kvm_pit_state2) == 112 && sizeof(kvm_clock_data) == 48);

namespace {

template <typename Value>
Value vm_part_of(const VmState& state, VmPart part) {
    return value_of_bytes<Value>(state.part(part), vm_part_name(part));
}

constexpr std::array<std::pair<VmPart, std::uint32_t>, 3> kChips{{{VmPart::pic_master, KVM_IRQCHIP_PIC_MASTER},
                                                                  {VmPart::pic_slave, KVM_IRQCHIP_PIC_SLAVE},
                                                                  {VmPart::ioapic, KVM_IRQCHIP_IOAPIC}}};

}  // namespace

VmState capture_vm(const Vm& vm, bool has_irqchip) {
    VmState state;
    if (has_irqchip) {
        for (const auto& [part, chip] : kChips) {
            state.part(part) = bytes_of_value(vm.irqchip(chip));
        }
        state.part(VmPart::pit) = bytes_of_value(vm.pit());
    }
    if (vm.check_extension(KVM_CAP_ADJUST_CLOCK) > 0) {
        state.part(VmPart::clock) = bytes_of_value(vm.clock());
    }
    return state;
}

void restore_vm(const Vm& vm, const VmState& state) {
    if (state.has_irqchip()) {
        vm.set_pit(vm_part_of<kvm_pit_state2>(state, VmPart::pit));
    }
    if (!state.part(VmPart::clock).empty()) {
        auto clock = vm_part_of<kvm_clock_data>(state, VmPart::clock);
        clock.flags = 0;  // goes on from there: the time between does not exist for the guest
        vm.set_clock(clock);
    }
    if (state.has_irqchip()) {
        for (const auto& [part, chip] : kChips) {
            auto value = vm_part_of<kvm_irqchip>(state, part);
            value.chip_id = chip;
            vm.set_irqchip(value);
        }
    }
}

#else

VmState capture_vm(const Vm& /*vm*/, bool /*has_irqchip*/) {
    throw SystemError(ENOTSUP, "capturing a VM", "only x86-64 guests can be saved");
}
void restore_vm(const Vm& /*vm*/, const VmState& /*state*/) {
    throw SystemError(ENOTSUP, "restoring a VM", "only x86-64 guests can be restored");
}

#endif

}  // namespace vmthaw
