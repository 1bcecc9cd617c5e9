#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/fork_guard.hpp"
#include "base/unique_fd.hpp"

struct kvm_cpuid_entry2;

namespace vmthaw {

class Vm;

// /dev/kvm, opened and checked (API version 12). Immutable, safe from any thread; every call throws SystemError, and in
// a forked child ForkedError. Source: Documentation/virt/kvm/api.rst.
class Kvm {
public:
    Kvm();

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] int api_version() const;  // always 12
    // What KVM_CHECK_EXTENSION says: 0 for no, 1 or more for yes.
    [[nodiscard]] int check_extension(int capability) const;
    // Bytes of a vCPU's mapping, which begins with struct kvm_run.
    [[nodiscard]] std::size_t vcpu_mmap_size() const;
    [[nodiscard]] Vm create_vm() const;

    // x86-64 only; elsewhere SystemError (ENOTSUP). The CPUID leaves that KVM can give a guest, and the model-specific
    // registers that belong to a vCPU's state.
    [[nodiscard]] std::vector<kvm_cpuid_entry2> supported_cpuid() const;
    [[nodiscard]] std::vector<std::uint32_t> msr_indices() const;

private:
    ForkGuard guard_;
    UniqueFd fd_;
};

}  // namespace vmthaw
