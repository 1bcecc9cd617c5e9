#if defined(__x86_64__)

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <string>

#include "base/error.hpp"
#include "kernel/kvm.hpp"
#include "kvm/kvm_ioctl.hpp"
#include "kvm/vcpu.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kMsrBatch = 256;  // KVM takes no more in one call
constexpr std::size_t kMostCpuidEntries = 4096;

}  // namespace

kvm_sregs Vcpu::sregs() const {
    kvm_sregs sregs{};
    get(KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    return sregs;
}
void Vcpu::set_sregs(const kvm_sregs& sregs) const { set(KVM_SET_SREGS, &sregs, "KVM_SET_SREGS"); }

kvm_fpu Vcpu::fpu() const {
    kvm_fpu fpu{};
    get(KVM_GET_FPU, &fpu, "KVM_GET_FPU");
    return fpu;
}
void Vcpu::set_fpu(const kvm_fpu& fpu) const { set(KVM_SET_FPU, &fpu, "KVM_SET_FPU"); }

std::vector<std::byte> Vcpu::xsave() const {
    std::vector<std::byte> area(xsave_bytes_);
    const bool large = xsave_bytes_ > kKvmXsaveBytes;
    get(large ? kKvmGetXsave2 : kKvmGetXsave, area.data(), large ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE");
    return area;
}

void Vcpu::set_xsave(std::span<const std::byte> area) const {
    if (area.size() != xsave_bytes_) {
        throw ArgumentError("the extended state has " + std::to_string(area.size()) + " bytes; this vCPU takes " +
                            std::to_string(xsave_bytes_));
    }
    set(kKvmSetXsave, area.data(), "KVM_SET_XSAVE");
}

kvm_xcrs Vcpu::xcrs() const {
    kvm_xcrs xcrs{};
    get(KVM_GET_XCRS, &xcrs, "KVM_GET_XCRS");
    return xcrs;
}
void Vcpu::set_xcrs(const kvm_xcrs& xcrs) const { set(KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS"); }

kvm_debugregs Vcpu::debugregs() const {
    kvm_debugregs registers{};
    get(KVM_GET_DEBUGREGS, &registers, "KVM_GET_DEBUGREGS");
    return registers;
}
void Vcpu::set_debugregs(const kvm_debugregs& registers) const {
    set(KVM_SET_DEBUGREGS, &registers, "KVM_SET_DEBUGREGS");
}

kvm_lapic_state Vcpu::lapic() const {
    kvm_lapic_state state{};
    get(KVM_GET_LAPIC, &state, "KVM_GET_LAPIC");
    return state;
}
void Vcpu::set_lapic(const kvm_lapic_state& state) const { set(KVM_SET_LAPIC, &state, "KVM_SET_LAPIC"); }

kvm_vcpu_events Vcpu::vcpu_events() const {
    kvm_vcpu_events events{};
    get(KVM_GET_VCPU_EVENTS, &events, "KVM_GET_VCPU_EVENTS");
    return events;
}
void Vcpu::set_vcpu_events(const kvm_vcpu_events& events) const {
    set(KVM_SET_VCPU_EVENTS, &events, "KVM_SET_VCPU_EVENTS");
}

std::vector<kvm_msr_entry> Vcpu::msrs(std::span<const std::uint32_t> indices) const {
    guard_.check("Vcpu");
    std::vector<kvm_msr_entry> found;
    KvmList<kvm_msr_entry, 8> list(kMsrBatch);
    const std::span<kvm_msr_entry> entries = list.entries();
    while (!indices.empty()) {
        const std::size_t count = std::min(indices.size(), kMsrBatch);
        list.set_count(count);
        for (std::size_t i = 0; i < count; ++i) {
            entries[i] = {indices[i], 0, 0};
        }
        const auto answer = static_cast<std::size_t>(kvm_ioctl(fd_.get(), kKvmGetMsrs, list.get(), "KVM_GET_MSRS"));
        const std::size_t done = std::min(answer, count);
        found.insert(found.end(), entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(done));
        // The kernel stops at the first register that this vCPU lacks.
        indices = indices.subspan(std::min(done + 1, count));
    }
    return found;
}

void Vcpu::set_msrs(std::span<const kvm_msr_entry> values) const {
    guard_.check("Vcpu");
    KvmList<kvm_msr_entry, 8> list(kMsrBatch);
    while (!values.empty()) {
        const std::size_t count = std::min(values.size(), kMsrBatch);
        list.set_count(count);
        std::copy_n(values.begin(), count, list.entries().begin());
        const auto done = static_cast<std::size_t>(kvm_ioctl(fd_.get(), kKvmSetMsrs, list.get(), "KVM_SET_MSRS"));
        if (done >= count) {
            values = values.subspan(count);
            continue;
        }
        const std::vector<kvm_msr_entry> present = msrs(std::span(&values[done].index, 1));
        if (present.empty() || present.front().data != values[done].data) {
            throw SystemError(
                EINVAL, "KVM_SET_MSRS",
                "model-specific register " + hex(values[done].index) + " does not take " + hex(values[done].data));
        }
        values = values.subspan(done + 1);
    }
}

std::vector<kvm_cpuid_entry2> Vcpu::cpuid() const {
    guard_.check("Vcpu");
    const KvmList<kvm_cpuid_entry2, 8> list(kMostCpuidEntries);
    kvm_ioctl(fd_.get(), kKvmGetCpuid2, list.get(), "KVM_GET_CPUID2");
    const auto found = list.entries().first(list.count());
    return {found.begin(), found.end()};
}

void Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
    guard_.check("Vcpu");
    const KvmList<kvm_cpuid_entry2, 8> list(entries.size());
    std::copy(entries.begin(), entries.end(), list.entries().begin());
    kvm_ioctl(fd_.get(), kKvmSetCpuid2, list.get(), "KVM_SET_CPUID2");
}

}  // namespace vmthaw

#endif
