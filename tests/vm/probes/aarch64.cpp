// What KVM on aarch64 does: exits, PSCI, registers, stepping, breakpoints and watchpoints; and kMemoryQuestions.
#include "machine.hpp"
#include "memory_questions.hpp"
#include "probe.hpp"

#include <cstring>
#include <string>
#include <vector>

namespace probe {

const std::uint64_t kRamGuestAddr = 0x40000000;

namespace {

constexpr std::uint64_t kRegister64 = 0x6030'0000'0000'0000;  // KVM_REG_ARM64 | KVM_REG_SIZE_U64
constexpr std::uint64_t core(std::uint64_t word) { return kRegister64 | 0x10'0000 | word; }
constexpr std::uint64_t general(std::uint64_t number) { return core(2 * number); }
constexpr std::uint64_t system(std::uint64_t encoding) { return kRegister64 | 0x13'0000 | encoding; }
constexpr std::uint64_t kPc = core(0x40);
constexpr std::uint64_t kPstate = core(0x42);
constexpr std::uint64_t kSpEl1 = core(0x44);
constexpr std::uint64_t kTtbr0 = system(0xc100);
constexpr std::uint64_t kTtbr1 = system(0xc101);
constexpr std::uint64_t kTcr = system(0xc102);
constexpr std::uint64_t kVbar = system(0xc600);
constexpr std::size_t kVectorsAt = 0x2000;
constexpr std::size_t kVectorsBytes = 0x800;
constexpr std::uint32_t kBranchToSelf = 0x14000000;
constexpr std::uint64_t kWatchedGuestAddr = kRamGuestAddr + 0x100000;

// Device registers at 0x09000000: nothing is mapped there, so each access ends a run.
PROBE_GUEST(tells_by_window,
            "movz x1, #0xC000, lsl 16\n add x1, x1, #0x3000\n movz x3, #0x0900, lsl 16\n"
            "ldr w2, [x1]\n str w2, [x3]\n str w2, [x1]\n str w2, [x3, #4]\n add x1, x1, #0x2000\n str w2, [x1]\n str "
            "w2, [x3, #8]\n b .")
PROBE_GUEST(spins, "b .")
PROBE_GUEST(waits, "1: wfi\n b 1b")
PROBE_GUEST(devices,
            "movz x1, #0x0900, lsl 16\n mov w0, #0x41\n str w0, [x1]\n ldr w2, [x1, #4]\n strb w0, [x1, #8]\n"
            "ldp w3, w4, [x1, #16]\n b .")
PROBE_GUEST(powers_off, "mov x0, #8\n movk x0, #0x8400, lsl 16\n hvc #0\n b .")
PROBE_GUEST(resets, "mov x0, #9\n movk x0, #0x8400, lsl 16\n hvc #0\n b .")
PROBE_GUEST(resets_by_kind, "mov x0, #0x12\n movk x0, #0xC400, lsl 16\n mov x1, #0\n mov x2, #0\n hvc #0\n b .")
PROBE_GUEST(sets_registers,
            "movz x1, #0x4020, lsl 16\n mov sp, x1\n movz x2, #0x1234\n msr ttbr1_el1, x2\n movz x2, #0x5000\n"
            "msr ttbr0_el1, x2\n movz x2, #0x3510\n msr tcr_el1, x2\n movz x1, #0x0900, lsl 16\n str w0, [x1]\n b .")
PROBE_GUEST(does_nothing, "nop\n nop\n mov x3, #1\n nop\n movz x1, #0x0900, lsl 16\n str w0, [x1]\n b .")
PROBE_GUEST(breaks, "nop\n brk #0\n b .")
// The store is at +0xc.
PROBE_GUEST(stores,
            "movz x1, #0x4010, lsl 16\n movz w0, #0x1122\n nop\n str w0, [x1, #4]\n nop\n movz x1, #0x0900, lsl 16\n"
            "str w0, [x1]\n b .")

std::uint64_t get(const Machine& machine, std::uint64_t id) {
    std::uint64_t value = 0;
    kvm_one_reg one{id, reinterpret_cast<std::uint64_t>(&value)};
    if (machine.ioctl_vcpu(KVM_GET_ONE_REG, &one) != 0) {
        fail("KVM_GET_ONE_REG");
    }
    return value;
}

void set(const Machine& machine, std::uint64_t id, std::uint64_t value) {
    kvm_one_reg one{id, reinterpret_cast<std::uint64_t>(&value)};
    if (machine.ioctl_vcpu(KVM_SET_ONE_REG, &one) != 0) {
        fail("KVM_SET_ONE_REG");
    }
}

void debug(const Machine& machine, std::uint32_t control, const kvm_guest_debug_arch& registers = {}) {
    kvm_guest_debug request{};
    request.control = KVM_GUESTDBG_ENABLE | control;
    request.arch = registers;
    if (machine.ioctl_vcpu(KVM_SET_GUEST_DEBUG, &request) != 0) {
        fail("KVM_SET_GUEST_DEBUG");
    }
}

// DBGWCR and DBGBCR: enabled, EL0 and EL1; stores alone; which bytes of the double word.
constexpr std::uint64_t kEnabled = 1 | 3U << 1U;
constexpr std::uint64_t kStores = 2U << 3U;
constexpr std::uint64_t bytes_mask(std::uint64_t mask) { return mask << 5U; }

kvm_guest_debug_arch watchpoint(std::uint64_t control, unsigned slot = 0) {
    kvm_guest_debug_arch registers{};
    registers.dbg_wvr[slot] = kWatchedGuestAddr;
    registers.dbg_wcr[slot] = control;
    return registers;
}

void ask_device_exits() {
    Machine machine;
    machine.load(devices());
    say("write", machine.run_to_place());
    say("write_drained", machine.drain());
    say("read", machine.run_to_place());
    const std::uint32_t answer = 0x74726976;
    std::memcpy(machine.state().mmio.data, &answer, sizeof answer);
    say("read_drained", machine.drain());
    say("value", hexadecimal(get(machine, general(2))));
    say("byte", machine.run_to_place());
    say("pair", machine.run_to_exit());
}

void ask_pair_with_capability() {
    Machine machine;
    kvm_enable_cap capability{};
    capability.cap = KVM_CAP_ARM_NISV_TO_USER;
    if (machine.ioctl_vm(KVM_ENABLE_CAP, &capability) != 0) {
        fail("KVM_CAP_ARM_NISV_TO_USER");
    }
    machine.load(devices());
    for (int exits = 0; exits < 3; ++exits) {
        static_cast<void>(machine.run());
    }
    say("pair", machine.run_to_exit());
}

void ask_power() {
    for (const auto& [what, guest] :
         {std::pair{"off", powers_off()}, {"reset", resets()}, {"reset2", resets_by_kind()}}) {
        Machine machine;
        machine.load(guest);
        say(what, machine.run_to_exit());
    }
}

void ask_registers() {
    Machine machine;
    machine.load(sets_registers());
    say("exit", machine.run_to_place());
    say("sp_el1", hexadecimal(get(machine, kSpEl1)));
    say("ttbr0_el1", hexadecimal(get(machine, kTtbr0)));
    say("ttbr1_el1", hexadecimal(get(machine, kTtbr1)));
    say("tcr_el1", hexadecimal(get(machine, kTcr)));
    say("pstate", hexadecimal(get(machine, kPstate)));
}

void ask_single_step() {
    Machine machine;
    machine.load(does_nothing());
    debug(machine, KVM_GUESTDBG_SINGLESTEP);
    for (int steps = 0; steps < 3; ++steps) {
        say("step", machine.run_to_place());
    }
}

void ask_breakpoint() {
    Machine machine;
    machine.load(breaks());
    debug(machine, KVM_GUESTDBG_USE_SW_BP);
    say("brk", machine.run_to_place());
    Machine other;
    other.load(does_nothing());
    kvm_guest_debug_arch registers{};
    registers.dbg_bvr[0] = kRamGuestAddr + 8;
    registers.dbg_bcr[0] = kEnabled | bytes_mask(0xf);
    debug(other, KVM_GUESTDBG_USE_HW, registers);
    say("hardware", other.run_to_place());
}

void ask_watchpoint() {
    Machine machine;
    machine.load(stores());
    const std::byte* watched = machine.memory() + (kWatchedGuestAddr - kRamGuestAddr) + 4;
    const std::uint64_t control = kEnabled | kStores | bytes_mask(0xf0);
    debug(machine, KVM_GUESTDBG_USE_HW, watchpoint(control));
    say("hit", machine.run_to_place());
    say("store", *watched == std::byte{0x22} ? "done" : "not done");
    say("still_armed", machine.run_to_place());
    debug(machine, KVM_GUESTDBG_USE_HW | KVM_GUESTDBG_SINGLESTEP, watchpoint(control & ~std::uint64_t{1}));
    say("step", machine.run_to_place());
    say("store", *watched == std::byte{0x22} ? "done" : "not done");
    debug(machine, KVM_GUESTDBG_USE_HW, watchpoint(control));
    say("armed_again", machine.run_to_place());
}

void ask_watchpoint_beside() {
    Machine machine;
    machine.load(stores());
    debug(machine, KVM_GUESTDBG_USE_HW, watchpoint(kEnabled | kStores | bytes_mask(0x0f)));
    say("other_bytes", machine.run_to_place());
}

void ask_watchpoint_slots() {
    Machine machine;
    const int slots = machine.capability(KVM_CAP_GUEST_DEBUG_HW_WPS);
    say("watchpoints", slots >= 2 ? "two or more" : std::to_string(slots));
    say("breakpoints", machine.capability(KVM_CAP_GUEST_DEBUG_HW_BPS) >= 2 ? "two or more" : "too few");
    machine.load(stores());
    debug(machine, KVM_GUESTDBG_USE_HW,
          watchpoint(kEnabled | kStores | bytes_mask(0xf0), static_cast<unsigned>(slots - 1)));
    say("last", machine.run_to_place());
}

constexpr Question kQuestions[] = {
    {"device_exits", ask_device_exits},
    {"pair_with_capability", ask_pair_with_capability},
    {"power", ask_power},
    {"registers", ask_registers},
    {"single_step", ask_single_step},
    {"breakpoint", ask_breakpoint},
    {"watchpoint", ask_watchpoint},
    {"watchpoint_beside", ask_watchpoint_beside},
    {"watchpoint_slots", ask_watchpoint_slots},
};

}  // namespace

void Machine::prepare(bool /*waits*/) {}  // WFI waits inside KVM always

void Machine::set_up_vcpu() {
    kvm_vcpu_init init{};
    if (ioctl_vm(KVM_ARM_PREFERRED_TARGET, &init) != 0) {
        fail("KVM_ARM_PREFERRED_TARGET");
    }
    init.features[0] |= 1U << KVM_ARM_VCPU_PSCI_0_2;
    if (ioctl_vcpu(KVM_ARM_VCPU_INIT, &init) != 0) {
        fail("KVM_ARM_VCPU_INIT");
    }
}

void Machine::start_at_beginning() {
    for (std::size_t at = kVectorsAt; at < kVectorsAt + kVectorsBytes; at += sizeof kBranchToSelf) {
        std::memcpy(memory_ + at, &kBranchToSelf, sizeof kBranchToSelf);  // an exception stands still
    }
    set(*this, kVbar, kRamGuestAddr + kVectorsAt);
    set(*this, kPc, kRamGuestAddr);
}

std::uint64_t Machine::place() const { return get(*this, kPc) - kRamGuestAddr; }

std::string Machine::processors_exit() const {
    const kvm_run& run = *state_;
    switch (run.exit_reason) {
        case KVM_EXIT_DEBUG:
            return "debug class " + hexadecimal(run.debug.arch.hsr >> 26U) + " far " + hexadecimal(run.debug.arch.far);
        case KVM_EXIT_SYSTEM_EVENT:
            return "system event " + std::to_string(run.system_event.type) + " data " +
                   (run.system_event.ndata > 0 ? hexadecimal(run.system_event.data[0]) : "none");
        case KVM_EXIT_ARM_NISV:
            return "no syndrome at " + hexadecimal(run.arm_nisv.fault_ipa);
        default:
            return "exit " + std::to_string(run.exit_reason);
    }
}

std::span<const std::byte> window_guest() { return tells_by_window(); }
std::span<const std::byte> spinning_guest() { return spins(); }
std::span<const std::byte> idle_guest() { return waits(); }

}  // namespace probe

int main(int count, char** words) {
    const char* only = count > 1 ? words[1] : nullptr;
    return probe::ask_all(probe::kQuestions, only) | probe::ask_all(probe::kMemoryQuestions, only);
}
