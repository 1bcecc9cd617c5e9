#include "machine/watchpoints/watch_probe.hpp"

#include <linux/kvm.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "base/error.hpp"
#include "kvm/vm.hpp"
#include "machine/guest_memory.hpp"
#include "machine/run_timer.hpp"
#include "machine/watchpoints/read_only_pages.hpp"
#include "machine/watchpoints/set_guest_debug.hpp"
#include "vcpu/exit.hpp"
#include "vcpu/vcpu_watch.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMemoryBytes = 2U << 20U;
// From where memory begins.
constexpr std::uint64_t kCode = 0x1000;
constexpr std::uint64_t kData = 0x2000;  // a page of its own
constexpr std::uint64_t kStride = 0x10;  // between the words that the guest stores to, one for each slot
constexpr std::uint64_t kSlice_ns = 100'000'000;
constexpr unsigned kMostSlices = 100;
constexpr unsigned kMostExits = 16;
constexpr std::uint32_t kStored = 0x44332211;

std::uint64_t in_memory(std::uint64_t offset) {
    return GuestMemory::layout(kMemoryBytes).front().guest_address + offset;
}

#if defined(__aarch64__)

constexpr std::uint64_t kCoreRegisters = 0x6030000000100000;  // X0; each next is two 32-bit words on
constexpr std::uint64_t kPc = kCoreRegisters + 2 * 32;
// str w1, [x0]; str w1, [x0, #16]; ... #32; ... #48; str w1, [x2]: to where nothing is. None writes its base back: of
// such a store KVM cannot tell the data.
constexpr std::array<std::uint32_t, 5> kProgram{0xB9000001, 0xB9001001, 0xB9002001, 0xB9003001, 0xB9000041};
constexpr std::uint64_t kSecondInstruction = kCode + 4;

void enter(const Vcpu& vcpu) {
    vcpu.set_one_reg(kPc, in_memory(kCode));
    vcpu.set_one_reg(kCoreRegisters, in_memory(kData));
    vcpu.set_one_reg(kCoreRegisters + 2, kStored);
    vcpu.set_one_reg(kCoreRegisters + 4, in_memory(kMemoryBytes));
}

#else

// mov %eax, 0x2000; mov %eax, 0x2010; mov %eax, 0x2020; mov %eax, 0x2030; hlt
constexpr std::array<unsigned char, 17> kProgram{0x66, 0xA3, 0x00, 0x20, 0x66, 0xA3, 0x10, 0x20, 0x66,
                                                 0xA3, 0x20, 0x20, 0x66, 0xA3, 0x30, 0x20, 0xF4};
constexpr std::uint64_t kSecondInstruction = kCode + 4;

void enter(const Vcpu& vcpu) {
    kvm_sregs sregs = vcpu.sregs();
    for (kvm_segment* const segment : {&sregs.cs, &sregs.ds}) {
        segment->base = 0;
        segment->selector = 0;
    }
    vcpu.set_sregs(sregs);
    kvm_regs regs{};
    regs.rip = kCode;
    regs.rax = kStored;
    regs.rflags = 2;
    vcpu.set_regs(regs);
}

#endif

// A guest that stores to four words, then ends by an exit that is neither DEBUG nor a store to its data.
class StoringGuest {
public:
    StoringGuest(const Kvm& kvm, bool read_only_data)
        : memory_(GuestMemory::anonymous(kMemoryBytes)), vm_(kvm.create_vm()), vcpu_(vm_.create_vcpu(0)) {
        memory_->write(in_memory(kCode), std::as_bytes(std::span(kProgram)));
        const std::uint64_t host = memory_->regions().front().host_address();
        const MemorySlot whole{0, in_memory(0), host, kMemoryBytes, false, false};
        std::uint32_t number = 0;
        for (MemorySlot piece : cut_memory_slot(whole, {in_memory(kData)})) {
            piece.slot = number++;
            piece.read_only = piece.read_only && read_only_data;
            vm_.set_memory_slot(piece);
        }
        enter(vcpu_);
    }

    [[nodiscard]] Vcpu& vcpu() noexcept { return vcpu_; }
    // The next exit; nothing when it never comes out.
    [[nodiscard]] std::optional<Exit> run() {
        for (unsigned slice = 0; slice < kMostSlices; ++slice) {
            const RunTimer timer(vcpu_, kSlice_ns);
            const RunResult outcome = vcpu_.run();
            vcpu_.set_immediate_exit(false);
            Exit exit = decode_exit(kHostArch, outcome.result, outcome.errno_value, vcpu_.run_bytes());
            if (!exit.is_interrupted()) {
                return exit;
            }
        }
        return std::nullopt;
    }

private:
    std::shared_ptr<GuestMemory> memory_;
    Vm vm_;
    Vcpu vcpu_;
};

// The slots that fired, under the very state machine that serves watchpoints.
unsigned fired_slots(const Kvm& kvm, const WatchRequests& requests, bool single_step, bool& has_stepped) {
    StoringGuest guest(kvm, false);
    VcpuWatch watch(kHostArch);
    unsigned fired = 0;
    for (unsigned exits = 0; exits < kMostExits; ++exits) {
        if (const auto setup = watch.prepare(requests, single_step)) {
            watch.note_result(set_guest_debug(guest.vcpu(), *setup));
        }
        const std::optional<Exit> exit = guest.run();
        const auto* const debug = exit ? std::get_if<DebugExit>(&exit->payload) : nullptr;
        if (debug == nullptr || watch.has_struck_out()) {
            break;
        }
#if defined(__aarch64__)
        const std::uint64_t place = guest.vcpu().try_one_reg(kPc).value_or(0);
#else
        const std::uint64_t place = debug->instruction_pointer;
#endif
        const WatchVerdict verdict = watch.on_exit(*debug, place);
        fired |= verdict.fired;
        has_stepped = has_stepped || verdict.stepped;
    }
    return fired;
}

bool stores_come_out(const Kvm& kvm) {
    StoringGuest guest(kvm, true);
    const std::optional<Exit> exit = guest.run();
    const auto* const store = exit ? std::get_if<MmioExit>(&exit->payload) : nullptr;
    if (store == nullptr || !store->is_write || store->guest_address != in_memory(kData) ||
        store->size_bytes != sizeof kStored) {
        return false;
    }
    std::uint32_t data = 0;
    std::memcpy(&data, store->data.data(), sizeof data);
    return data == kStored;
}

}  // namespace

WatchAbility probe_watchpoints(const Kvm& kvm) {
    WatchAbility ability;
    bool has_stepped = false;
    WatchRequests stores;
    for (std::size_t slot = 0; slot < kWatchSlots; ++slot) {
        stores.at(slot) = {slot + 1, {in_memory(kData + slot * kStride), WatchKind::write}};
    }
    ability.data_slots = fired_slots(kvm, stores, false, has_stepped);
    WatchRequests breakpoint;
    breakpoint.at(1) = {1, {in_memory(kSecondInstruction), WatchKind::execute}};
    ability.execute = fired_slots(kvm, breakpoint, false, has_stepped) == 2U;
    has_stepped = false;
    (void)fired_slots(kvm, {}, true, has_stepped);
    ability.single_step = has_stepped;
    ability.read_only_page = stores_come_out(kvm);
    return ability;
}

}  // namespace vmthaw
