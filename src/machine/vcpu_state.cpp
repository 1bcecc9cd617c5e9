#include "machine/vcpu_state.hpp"

#include <cerrno>
#include <cstring>
#include <span>

#include "base/error.hpp"
#include "machine/state_bytes.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMostXsave = 1U << 20U;
constexpr std::uint64_t kMostEntries = 4096;

// Sizes of x86-64's structures, so that a state file can be checked on any host.
struct VcpuPartShape {
    const char* name;
    std::uint64_t entry_bytes;
    std::uint64_t least, most;  // entries
};
constexpr std::array<VcpuPartShape, kVcpuParts> kVcpuShapes{{{"cpuid", 40, 0, kMostEntries},
                                                             {"mp_state", 4, 1, 1},
                                                             {"regs", 144, 1, 1},
                                                             {"sregs", 312, 1, 1},
                                                             {"fpu", 416, 1, 1},
                                                             {"xsave", 1, 4096, kMostXsave},
                                                             {"xcrs", 392, 1, 1},
                                                             {"debugregs", 128, 1, 1},
                                                             {"lapic", 1024, 0, 1},
                                                             {"msrs", 16, 0, kMostEntries},
                                                             {"vcpu_events", 64, 1, 1}}};

}  // namespace

const char* vcpu_part_name(VcpuPart part) noexcept {
    const auto index = static_cast<std::size_t>(part);
    return index < kVcpuParts ? kVcpuShapes[index].name : "unknown";
}

bool is_vcpu_part_size(VcpuPart part, std::uint64_t size_bytes) noexcept {
    const auto index = static_cast<std::size_t>(part);
    if (index >= kVcpuParts) {
        return false;
    }
    const VcpuPartShape& shape = kVcpuShapes[index];
    return size_bytes % shape.entry_bytes == 0 && size_bytes / shape.entry_bytes >= shape.least &&
           size_bytes / shape.entry_bytes <= shape.most;
}

#if defined(__x86_64__)

static_assert(sizeof(kvm_cpuid_entry2) == 40 && sizeof(kvm_mp_state) == 4 && sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312 && sizeof(kvm_fpu) == 416 && sizeof(kvm_xcrs) == 392);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_debugregs) == 128 && sizeof(kvm_msr_entry) == 16 && sizeof(kvm_vcpu_events) == 64);

namespace {

template <typename Entry>
std::vector<std::byte> bytes_of_all(const std::vector<Entry>& entries) {
    const auto bytes = std::as_bytes(std::span(entries));
    return {bytes.begin(), bytes.end()};
}

template <typename Value>
Value vcpu_part_of(const VcpuState& state, VcpuPart part) {
    return value_of_bytes<Value>(state.part(part), vcpu_part_name(part));
}

template <typename Entry>
std::vector<Entry> entries_of(const VcpuState& state, VcpuPart part) {
    const std::vector<std::byte>& bytes = state.part(part);
    std::vector<Entry> entries(bytes.size() / sizeof(Entry));
    if (!entries.empty()) {
        std::memcpy(entries.data(), bytes.data(), entries.size() * sizeof(Entry));
    }
    return entries;
}

}  // namespace

VcpuState capture_vcpu(const Kvm& kvm, Vcpu& vcpu, bool has_irqchip) {
    if (const int error = vcpu.drain(); error != 0) {
        throw SystemError(error, "KVM_RUN(completing an instruction)");
    }
    VcpuState state;
    // The order of reading matters to the kernel: mp_state may run what is pending, so it goes before the registers.
    state.part(VcpuPart::mp_state) = bytes_of_value(vcpu.mp_state());
    state.part(VcpuPart::regs) = bytes_of_value(vcpu.regs());
    state.part(VcpuPart::sregs) = bytes_of_value(vcpu.sregs());
    state.part(VcpuPart::fpu) = bytes_of_value(vcpu.fpu());
    state.part(VcpuPart::xsave) = vcpu.xsave();
    state.part(VcpuPart::xcrs) = bytes_of_value(vcpu.xcrs());
    state.part(VcpuPart::debugregs) = bytes_of_value(vcpu.debugregs());
    if (has_irqchip) {
        state.part(VcpuPart::lapic) = bytes_of_value(vcpu.lapic());
    }
    state.part(VcpuPart::msrs) = bytes_of_all(vcpu.msrs(kvm.msr_indices()));
    state.part(VcpuPart::cpuid) = bytes_of_all(vcpu.cpuid());
    state.part(VcpuPart::vcpu_events) = bytes_of_value(vcpu.vcpu_events());
    return state;
}

void restore_vcpu(Vcpu& vcpu, const VcpuState& state) {
    vcpu.set_cpuid(entries_of<kvm_cpuid_entry2>(state, VcpuPart::cpuid));
    vcpu.set_mp_state(vcpu_part_of<kvm_mp_state>(state, VcpuPart::mp_state));
    vcpu.set_regs(vcpu_part_of<kvm_regs>(state, VcpuPart::regs));
    vcpu.set_sregs(vcpu_part_of<kvm_sregs>(state, VcpuPart::sregs));
    vcpu.set_fpu(vcpu_part_of<kvm_fpu>(state, VcpuPart::fpu));
    vcpu.set_xcrs(vcpu_part_of<kvm_xcrs>(state, VcpuPart::xcrs));  // says which of the extended state is there
    vcpu.set_xsave(state.part(VcpuPart::xsave));
    vcpu.set_debugregs(vcpu_part_of<kvm_debugregs>(state, VcpuPart::debugregs));
    if (!state.part(VcpuPart::lapic).empty()) {
        vcpu.set_lapic(vcpu_part_of<kvm_lapic_state>(state, VcpuPart::lapic));
    }
    vcpu.set_msrs(entries_of<kvm_msr_entry>(state, VcpuPart::msrs));
    vcpu.set_vcpu_events(vcpu_part_of<kvm_vcpu_events>(state, VcpuPart::vcpu_events));
}

#else

VcpuState capture_vcpu(const Kvm& /*kvm*/, Vcpu& /*vcpu*/, bool /*has_irqchip*/) {
    throw SystemError(ENOTSUP, "capturing a vCPU", "only x86-64 guests can be saved");
}
void restore_vcpu(Vcpu& /*vcpu*/, const VcpuState& /*state*/) {
    throw SystemError(ENOTSUP, "restoring a vCPU", "only x86-64 guests can be restored");
}

#endif

}  // namespace vmthaw
