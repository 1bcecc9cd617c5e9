#pragma once

// A VM with one vCPU, whatever its processor, as the questions need it. Nothing is taken down: a question's process
// ends.

#include <linux/kvm.h>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace probe {

// Where the guests find things; the addresses suit both processors.
constexpr std::uint64_t kWindowGuestAddr = 0xC0000000;
constexpr std::size_t kWindowBytes = 0x200000;
constexpr std::size_t kReadAt = 0x3000;   // the window's guest reads and then writes here
constexpr std::size_t kWriteAt = 0x5000;  // and writes here in the end
constexpr std::size_t kPageBytes = 4096;

class Machine {
public:
    // RAM in slot 0 and a vCPU that is ready for a guest. `waits`: an idle guest is to wait inside KVM.
    explicit Machine(bool waits = false);

    int ioctl_kvm(unsigned long request, void* argument) const;
    int ioctl_vm(unsigned long request, void* argument) const;
    int ioctl_vcpu(unsigned long request, void* argument) const;
    int capability(int number) const;
    int slot(std::uint32_t number, std::uint32_t flags, std::uint64_t guest_addr, std::size_t size_bytes,
             void* memory) const;
    void window(void* memory, std::uint32_t flags = 0) const;  // slot 1

    void load(std::span<const std::byte> code);  // at RAM's start, and the vCPU there; ends an access under way
    int run();                                   // 0 or the errno of KVM_RUN
    std::string exit();                          // how the last run ended, in words
    std::string drain();  // finishes an access without going on in the guest; how, and where the guest is then
    std::string run_to_exit();
    std::string run_to_place();  // the exit, and where the guest is

    std::byte* memory() const { return memory_; }
    kvm_run& state() const { return *state_; }

private:
    // By processor:
    void prepare(bool waits);  // before the vCPU is made
    void set_up_vcpu();
    void start_at_beginning();
    std::string processors_exit() const;
    std::uint64_t place() const;  // of the next instruction, from RAM's start on

    int kvm_ = -1;
    int vm_ = -1;
    int vcpu_ = -1;
    int error_ = 0;
    bool has_run_ = false;
    std::byte* memory_ = nullptr;
    kvm_run* state_ = nullptr;
};

// Of each processor: where RAM begins, and guests.
extern const std::uint64_t kRamGuestAddr;
constexpr std::size_t kRamBytes = 4U << 20U;
std::span<const std::byte> window_guest();  // reads kReadAt, tells; writes kReadAt, tells; writes kWriteAt, tells
std::span<const std::byte> spinning_guest();
std::span<const std::byte> idle_guest();  // HLT, WFI

std::string hexadecimal(std::uint64_t value);
std::byte* map(std::size_t size_bytes, int protection, int flags, int fd = -1);

// A guest's code out of assembly. Labels are global and hidden: on aarch64 local ones would share one GOT entry.
#define PROBE_GUEST(name, body)                                                                                 \
    extern "C" __attribute__((visibility("hidden"))) const std::byte guest_##name[];                            \
    extern "C" __attribute__((visibility("hidden"))) const std::byte guest_end_##name[];                        \
    __asm__(".pushsection .rodata\n.balign 4\n.globl guest_" #name "\n.globl guest_end_" #name "\nguest_" #name \
            ":\n" body "\nguest_end_" #name ":\n.balign 4\n.popsection\n");                                     \
    std::span<const std::byte> name() { return {guest_##name, guest_end_##name}; }

}  // namespace probe
