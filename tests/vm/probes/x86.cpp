// What KVM on x86 does: port and memory exits, faults without vectors, stepping, breakpoints; and kMemoryQuestions.
#include "machine.hpp"
#include "memory_questions.hpp"
#include "probe.hpp"

#include <cstring>
#include <string>
#include <string_view>

namespace probe {

const std::uint64_t kRamGuestAddr = 0;

namespace {

enum class Mode { real, kernel, user };

constexpr std::uint64_t kTablesAt = 0x100000;  // PML4, PDPT, and page directories of RAM and of the window
constexpr std::uint64_t kLargePage = 0x200000;
constexpr std::uint64_t kPresentWritableUser = 7;
constexpr std::uint64_t kLarge = 0x80;
constexpr std::uint64_t kWatchedAt = 0x3000;
constexpr std::uint64_t kNowhere = 0x3000000;  // in the guest's tables, in no slot

PROBE_GUEST(tells_by_window,
            "mov $0xC0003000, %ebx\n mov (%rbx), %eax\n out %eax, $0x10\n mov %eax, (%rbx)\n out %eax, $0x11\n"
            "mov %eax, 0x2000(%rbx)\n out %eax, $0x12\n hlt")
PROBE_GUEST(spins, "jmp .")
PROBE_GUEST(halts, "hlt")
PROBE_GUEST(ports, ".code16\n mov $0x3f8, %dx\n mov $0x41, %al\n out %al, %dx\n in %dx, %al\n hlt\n .code64")
PROBE_GUEST(strings_of_ports,
            ".code16\n cld\n mov $0x3f8, %dx\n mov $0x2000, %si\n mov $5, %cx\n rep outsb\n mov $0x3000, %di\n"
            "mov $5, %cx\n rep insb\n hlt\n .code64")
PROBE_GUEST(devices, "mov $0xC0000000, %ebx\n mov (%rbx), %eax\n mov %eax, 4(%rbx)\n movb $0x7f, 8(%rbx)\n hlt")
PROBE_GUEST(does_nothing, "nop\n nop\n nop\n nop\n out %al, $0x10\n hlt")
PROBE_GUEST(breaks, "nop\n int3\n nop\n hlt")
// The store is at +5, the load at +0xc.
PROBE_GUEST(stores,
            "mov $0x3000, %ebx\n movl $0x11223344, (%rbx)\n nop\n mov (%rbx), %eax\n nop\n out %al, $0x10\n hlt")
PROBE_GUEST(watches_itself,
            "mov $0x3000, %eax\n mov %rax, %db0\n mov $0xd0703, %eax\n mov %rax, %db7\n mov $0x3000, %ebx\n"
            "movl $1, (%rbx)\n nop\n hlt")
PROBE_GUEST(is_undefined, "nop\n ud2")

kvm_regs registers_of(const Machine& machine) {
    kvm_regs registers{};
    if (machine.ioctl_vcpu(KVM_GET_REGS, &registers) != 0) {
        fail("KVM_GET_REGS");
    }
    return registers;
}

void write_tables(std::byte* memory) {
    const auto entry = [memory](std::uint64_t table, std::uint64_t index, std::uint64_t value) {
        std::memcpy(memory + kTablesAt + table * kPageBytes + index * sizeof value, &value, sizeof value);
    };
    const auto table = [](std::uint64_t number) { return (kTablesAt + number * kPageBytes) | kPresentWritableUser; };
    entry(0, 0, table(1));
    entry(1, 0, table(2));
    entry(1, kWindowGuestAddr >> 30U, table(3));
    for (std::uint64_t page = 0; page < 64; ++page) {
        entry(2, page, page * kLargePage | kPresentWritableUser | kLarge);
        entry(3, page, (kWindowGuestAddr + page * kLargePage) | kPresentWritableUser | kLarge);
    }
}

void enter(const Machine& machine, Mode mode, std::uint64_t rip = 0) {
    kvm_sregs special{};
    if (machine.ioctl_vcpu(KVM_GET_SREGS, &special) != 0) {
        fail("KVM_GET_SREGS");
    }
    const std::uint8_t privilege = mode == Mode::user ? 3 : 0;
    kvm_segment code{};
    code.type = 11;
    code.present = code.s = 1;
    code.dpl = privilege;
    kvm_segment data = code;
    data.type = 3;
    if (mode == Mode::real) {
        code.limit = data.limit = 0xffff;
        special.cr0 = 0x60000010;  // as after a reset
        special.cr4 = special.efer = 0;
    } else {
        write_tables(machine.memory());
        special.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE
        special.cr3 = kTablesAt;
        special.cr4 = 0x20;    // PAE
        special.efer = 0x500;  // LMA, LME
        code.limit = data.limit = 0xffffffff;
        code.selector = static_cast<std::uint16_t>((privilege == 3 ? 0x18 : 0x08) | privilege);
        data.selector = static_cast<std::uint16_t>((privilege == 3 ? 0x20 : 0x10) | privilege);
        code.l = code.g = data.g = data.db = 1;
    }
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    kvm_regs registers{};
    registers.rip = rip;
    registers.rsp = 0x80000;
    registers.rflags = mode == Mode::user ? 0x3002 : 2;  // IOPL 3: ports from CPL 3 too
    if (machine.ioctl_vcpu(KVM_SET_SREGS, &special) != 0 || machine.ioctl_vcpu(KVM_SET_REGS, &registers) != 0) {
        fail("KVM_SET_SREGS, KVM_SET_REGS");
    }
}

void debug(const Machine& machine, std::uint32_t control, std::uint64_t address = 0, std::uint64_t dr7 = 0) {
    kvm_guest_debug request{};
    request.control = KVM_GUESTDBG_ENABLE | control;
    request.arch.debugreg[0] = address;
    request.arch.debugreg[7] = dr7;
    if (machine.ioctl_vcpu(KVM_SET_GUEST_DEBUG, &request) != 0) {
        fail("KVM_SET_GUEST_DEBUG");
    }
}

std::string_view name_of(Mode mode) { return mode == Mode::kernel ? "cpl0" : "cpl3"; }

// The same with CPL 0 and CPL 3.
template <typename Ask>
void in_both_modes(std::span<const std::byte> guest, const Ask& ask) {
    for (const Mode mode : {Mode::kernel, Mode::user}) {
        Machine machine;
        machine.load(guest);
        enter(machine, mode);
        ask(machine, name_of(mode));
    }
}

void ask_port_exits() {
    Machine machine;
    machine.load(ports());
    enter(machine, Mode::real);
    say("out", machine.run_to_place());
    say("out_drained", machine.drain());
    say("in", machine.run_to_place());
    reinterpret_cast<std::byte*>(&machine.state())[machine.state().io.data_offset] = std::byte{0x5a};
    say("in_drained", machine.drain());
    say("al", hexadecimal(registers_of(machine).rax & 0xffU));
    say("end", machine.run_to_place());
}

void ask_strings() {
    Machine machine;
    machine.load(strings_of_ports());
    enter(machine, Mode::real);
    std::memcpy(machine.memory() + 0x2000, "hello", 5);
    for (int exits = 0; exits < 12; ++exits) {
        say("exit", machine.run_to_exit());
        if (machine.state().exit_reason != KVM_EXIT_IO) {
            break;
        }
    }
}

void ask_device_exits() {
    Machine machine;
    machine.load(devices());
    say("read", machine.run_to_place());
    const std::uint32_t answer = 0x74726976;
    std::memcpy(machine.state().mmio.data, &answer, sizeof answer);
    say("read_drained", machine.drain());
    say("value", hexadecimal(registers_of(machine).rax));
    say("write", machine.run_to_place());
    say("byte", machine.run_to_place());
    say("end", machine.run_to_place());
}

void ask_faults() {
    Machine undefined;
    undefined.load(is_undefined());
    say("undefined", undefined.run_to_place());
    Machine nowhere;
    nowhere.load(spins());
    enter(nowhere, Mode::kernel, kNowhere);
    say("nowhere", nowhere.run_to_exit());
}

void ask_single_step() {
    in_both_modes(does_nothing(), [](Machine& machine, std::string_view mode) {
        debug(machine, KVM_GUESTDBG_SINGLESTEP);
        say(mode, machine.run_to_place());
        say(mode, machine.run_to_place());
    });
    Machine machine;
    machine.load(halts());
    debug(machine, KVM_GUESTDBG_SINGLESTEP);
    say("hlt", machine.run_to_place());
}

void ask_breakpoint() {
    in_both_modes(breaks(), [](Machine& machine, std::string_view mode) {
        debug(machine, KVM_GUESTDBG_USE_SW_BP);
        say(std::string("int3_").append(mode), machine.run_to_exit());
    });
    in_both_modes(does_nothing(), [](Machine& machine, std::string_view mode) {
        debug(machine, KVM_GUESTDBG_USE_HW_BP, 2, 0x701);
        say(std::string("hardware_").append(mode), machine.run_to_place());
    });
}

void ask_watchpoint() {
    constexpr std::uint64_t kStores = 0xd0703;  // slot 0: enabled, 4 bytes, writes
    constexpr std::uint64_t kAccesses = 0xf0703;
    in_both_modes(stores(), [](Machine& machine, std::string_view mode) {
        debug(machine, KVM_GUESTDBG_USE_HW_BP, kWatchedAt, kStores);
        say(std::string("store_").append(mode), machine.run_to_place());
        say("memory", machine.memory()[kWatchedAt] == std::byte{0x44} ? "changed" : "kept");
        say(std::string("next_").append(mode), machine.run_to_place());
    });
    in_both_modes(stores(), [](Machine& machine, std::string_view mode) {
        debug(machine, KVM_GUESTDBG_USE_HW_BP, kWatchedAt, kAccesses);
        say(std::string("first_access_").append(mode), machine.run_to_place());
        say(std::string("second_access_").append(mode), machine.run_to_place());
    });
}

void ask_guests_own_watchpoint() {
    Machine machine;
    machine.load(watches_itself());
    say("store", machine.run_to_exit());  // without vectors the exception shuts the guest down
}

constexpr Question kQuestions[] = {
    {"port_exits", ask_port_exits},     {"strings", ask_strings},
    {"device_exits", ask_device_exits}, {"faults", ask_faults},
    {"single_step", ask_single_step},   {"breakpoint", ask_breakpoint},
    {"watchpoint", ask_watchpoint},     {"guests_own_watchpoint", ask_guests_own_watchpoint},
};

}  // namespace

void Machine::prepare(bool waits) {
    if (ioctl_vm(KVM_SET_TSS_ADDR, reinterpret_cast<void*>(0xfffbd000)) != 0) {
        fail("KVM_SET_TSS_ADDR");
    }
    if (waits && ioctl_vm(KVM_CREATE_IRQCHIP, nullptr) != 0) {  // without one HLT ends the run
        fail("KVM_CREATE_IRQCHIP");
    }
}

void Machine::set_up_vcpu() {
    // In C++ the headers' struct kvm_cpuid2 has four bytes too many, and with it the numbers of these ioctls.
    constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, std::uint64_t);
    constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, std::uint64_t);
    constexpr std::uint32_t kEntries = 256;
    struct {
        std::uint32_t count = kEntries;
        std::uint32_t padding = 0;
        kvm_cpuid_entry2 entries[kEntries] = {};
    } features;
    if (ioctl_kvm(kGetSupportedCpuid, &features) != 0 || ioctl_vcpu(kSetCpuid2, &features) != 0) {
        fail("KVM_SET_CPUID2");
    }
}

void Machine::start_at_beginning() { enter(*this, Mode::kernel); }

std::uint64_t Machine::place() const { return registers_of(*this).rip - kRamGuestAddr; }

std::string Machine::processors_exit() const {
    const kvm_run& run = *state_;
    if (run.exit_reason == KVM_EXIT_DEBUG) {
        return "debug exception " + std::to_string(run.debug.arch.exception) + " dr6 " +
               hexadecimal(run.debug.arch.dr6);
    }
    if (run.exit_reason != KVM_EXIT_IO) {
        return "exit " + std::to_string(run.exit_reason);
    }
    const bool is_out = run.io.direction == KVM_EXIT_IO_OUT;
    std::uint32_t data = 0;
    std::memcpy(&data, reinterpret_cast<const std::byte*>(state_) + run.io.data_offset, run.io.size);
    return (is_out ? "out " : "in ") + hexadecimal(run.io.port) + " size " + std::to_string(run.io.size) + " count " +
           std::to_string(run.io.count) + (is_out ? ": " + hexadecimal(data) : "");
}

std::span<const std::byte> window_guest() { return tells_by_window(); }
std::span<const std::byte> spinning_guest() { return spins(); }
std::span<const std::byte> idle_guest() { return halts(); }

}  // namespace probe

int main(int count, char** words) {
    const char* only = count > 1 ? words[1] : nullptr;
    return probe::ask_all(probe::kQuestions, only) | probe::ask_all(probe::kMemoryQuestions, only);
}
