#include "kvm/kvm.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <string>

#include "base/error.hpp"
#include "kernel/kvm.hpp"
#include "kvm/kvm_ioctl.hpp"
#include "kvm/vm.hpp"

namespace vmthaw {
namespace {

constexpr int kApiVersion = 12;

UniqueFd open_kvm() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd) {
        const int saved = errno;
        const char* remedy = "run `vmthaw doctor`";
        if (saved == EACCES || saved == EPERM) {
            remedy = "add this user to the group that owns /dev/kvm; run `vmthaw doctor`";
        } else if (saved == ENOENT || saved == ENXIO || saved == ENODEV) {
            remedy = "this machine has no KVM: load kvm_intel or kvm_amd, or allow nested virtualization";
        }
        throw SystemError(saved, "open(/dev/kvm)", remedy);
    }
    return fd;
}

}  // namespace

int kvm_ioctl(int fd, unsigned long request, void* argument, const char* operation) {
    int result = 0;
    do {
        result = ::ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR);
    return check_errno(result, operation);
}

int kvm_ioctl(int fd, unsigned long request, unsigned long argument, const char* operation) {
    int result = 0;
    do {
        result = ::ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR);
    return check_errno(result, operation);
}

Kvm::Kvm() : fd_(open_kvm()) {
    if (const int version = api_version(); version != kApiVersion) {
        throw SystemError(EOPNOTSUPP, "KVM_GET_API_VERSION",
                          "the kernel speaks version " + std::to_string(version) + ", not 12");
    }
}

int Kvm::api_version() const {
    guard_.check("Kvm");
    return kvm_ioctl(fd_.get(), KVM_GET_API_VERSION, 0UL, "KVM_GET_API_VERSION");
}

int Kvm::check_extension(int capability) const {
    guard_.check("Kvm");
    return kvm_ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability), "KVM_CHECK_EXTENSION");
}

std::size_t Kvm::vcpu_mmap_size() const {
    guard_.check("Kvm");
    return static_cast<std::size_t>(kvm_ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0UL, "KVM_GET_VCPU_MMAP_SIZE"));
}

Vm Kvm::create_vm() const {
    const std::size_t mmap_size = vcpu_mmap_size();
    return {UniqueFd(kvm_ioctl(fd_.get(), KVM_CREATE_VM, 0UL, "KVM_CREATE_VM")), mmap_size};
}

#if defined(__x86_64__)

std::vector<kvm_cpuid_entry2> Kvm::supported_cpuid() const {
    guard_.check("Kvm");
    for (std::uint32_t room = 128; room <= 4096; room *= 2) {
        const KvmList<kvm_cpuid_entry2, 8> list(room);
        try {
            kvm_ioctl(fd_.get(), kKvmGetSupportedCpuid, list.get(), "KVM_GET_SUPPORTED_CPUID");
        } catch (const SystemError& error) {
            if (error.errno_value() == E2BIG) {
                continue;
            }
            throw;
        }
        const auto found = list.entries().first(list.count());
        return {found.begin(), found.end()};
    }
    throw SystemError(E2BIG, "KVM_GET_SUPPORTED_CPUID");
}

std::vector<std::uint32_t> Kvm::msr_indices() const {
    guard_.check("Kvm");
    constexpr std::uint32_t kMostMsrs = 4096;
    const KvmList<std::uint32_t, 4> list(kMostMsrs);
    kvm_ioctl(fd_.get(), kKvmGetMsrIndexList, list.get(), "KVM_GET_MSR_INDEX_LIST");
    const auto found = list.entries().first(list.count());
    return {found.begin(), found.end()};
}

#else

std::vector<kvm_cpuid_entry2> Kvm::supported_cpuid() const {
    throw SystemError(ENOTSUP, "KVM_GET_SUPPORTED_CPUID", "CPUID belongs to x86-64");
}
std::vector<std::uint32_t> Kvm::msr_indices() const {
    throw SystemError(ENOTSUP, "KVM_GET_MSR_INDEX_LIST", "model-specific registers belong to x86-64");
}

#endif

}  // namespace vmthaw
