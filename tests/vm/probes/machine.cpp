#include "machine.hpp"

#include "probe.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <iterator>

namespace probe {

std::string hexadecimal(std::uint64_t value) {
    char text[24];
    const auto end = std::to_chars(std::begin(text), std::end(text), value, 16).ptr;
    return "0x" + std::string(std::begin(text), end);
}

std::byte* map(std::size_t size_bytes, int protection, int flags, int fd) {
    void* memory = mmap(nullptr, size_bytes, protection, fd < 0 ? flags | MAP_ANONYMOUS : flags, fd, 0);
    if (memory == MAP_FAILED) {
        fail("mmap");
    }
    return static_cast<std::byte*>(memory);
}

Machine::Machine(bool waits) {
    kvm_ = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_ < 0) {
        fail("/dev/kvm");
    }
    vm_ = ioctl(kvm_, KVM_CREATE_VM, 0);
    if (vm_ < 0) {
        fail("KVM_CREATE_VM");
    }
    memory_ = map(kRamBytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (slot(0, 0, kRamGuestAddr, kRamBytes, memory_) != 0) {
        fail("KVM_SET_USER_MEMORY_REGION");
    }
    prepare(waits);
    vcpu_ = ioctl(vm_, KVM_CREATE_VCPU, 0);
    const int size_bytes = ioctl(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vcpu_ < 0 || size_bytes < 0) {
        fail("KVM_CREATE_VCPU");
    }
    state_ = reinterpret_cast<kvm_run*>(
        map(static_cast<std::size_t>(size_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_));
    set_up_vcpu();
}

int Machine::ioctl_kvm(unsigned long request, void* argument) const { return ioctl(kvm_, request, argument); }

int Machine::ioctl_vm(unsigned long request, void* argument) const { return ioctl(vm_, request, argument); }

int Machine::ioctl_vcpu(unsigned long request, void* argument) const { return ioctl(vcpu_, request, argument); }

int Machine::capability(int number) const { return ioctl(vm_, KVM_CHECK_EXTENSION, number); }

int Machine::slot(std::uint32_t number, std::uint32_t flags, std::uint64_t guest_addr, std::size_t size_bytes,
                  void* memory) const {
    kvm_userspace_memory_region region{number, flags, guest_addr, size_bytes, reinterpret_cast<std::uint64_t>(memory)};
    return ioctl_vm(KVM_SET_USER_MEMORY_REGION, &region);
}

void Machine::window(void* memory, std::uint32_t flags) const {
    if (slot(1, flags, kWindowGuestAddr, kWindowBytes, memory) != 0) {
        fail("KVM_SET_USER_MEMORY_REGION");
    }
}

void Machine::load(std::span<const std::byte> code) {
    if (has_run_) {
        static_cast<void>(drain());  // else the next run would, and move the program counter that is set below
    }
    std::memcpy(memory_, code.data(), code.size());
    __builtin___clear_cache(reinterpret_cast<char*>(memory_), reinterpret_cast<char*>(memory_ + code.size()));
    start_at_beginning();
}

int Machine::run() {
    has_run_ = true;
    error_ = ioctl(vcpu_, KVM_RUN, 0) == 0 ? 0 : errno;
    return error_;
}

std::string Machine::run_to_exit() {
    static_cast<void>(run());
    return exit();
}

std::string Machine::run_to_place() {
    const std::string exit = run_to_exit();
    return exit + " at +" + hexadecimal(place());
}

std::string Machine::drain() {
    state_->immediate_exit = 1;
    const std::string end = run_to_place();
    state_->immediate_exit = 0;
    return end;
}

std::string Machine::exit() {
    if (error_ != 0) {
        return std::string(strerrorname_np(error_)) + " reason " + std::to_string(state_->exit_reason);
    }
    switch (state_->exit_reason) {
        case KVM_EXIT_MMIO: {
            const auto& mmio = state_->mmio;
            std::uint64_t data = 0;
            std::memcpy(&data, static_cast<const void*>(mmio.data), mmio.len);
            return "mmio " + std::string(mmio.is_write != 0 ? "write " : "read ") + std::to_string(mmio.len) + " at " +
                   hexadecimal(mmio.phys_addr) + (mmio.is_write != 0 ? ": " + hexadecimal(data) : "");
        }
        case KVM_EXIT_HLT:
            return "hlt";
        case KVM_EXIT_SHUTDOWN:
            return "shutdown";
        case KVM_EXIT_INTERNAL_ERROR:
            return "internal error " + std::to_string(state_->internal.suberror);
        default:
            return processors_exit();
    }
}

}  // namespace probe
