#include "machine/capture_full.hpp"

#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {

#if defined(__x86_64__)
namespace {

class Collector {
public:
    explicit Collector(FullRegisters& out) : out_(out) {}
    template <typename Value>
    void add(std::string name, const Value& value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        add(std::move(name), bytes);
    }
    void add(std::string name, std::span<const std::byte> bytes) {
        out_.registers.push_back({std::move(name), {bytes.begin(), bytes.end()}});
    }

private:
    FullRegisters& out_;
};

template <typename Value>
Value part_of(const VcpuState& state, VcpuPart part) {
    Value value{};
    if (state.part(part).size() != sizeof value) {
        throw ArgumentError(std::string("the vCPU's state has no ") + vcpu_part_name(part));
    }
    std::memcpy(&value, state.part(part).data(), sizeof value);
    return value;
}

void add_general(Collector& out, const kvm_regs& regs) {
    const std::pair<const char*, __u64> values[] = {
        {"rax", regs.rax}, {"rbx", regs.rbx}, {"rcx", regs.rcx},      {"rdx", regs.rdx}, {"rsi", regs.rsi},
        {"rdi", regs.rdi}, {"rsp", regs.rsp}, {"rbp", regs.rbp},      {"r8", regs.r8},   {"r9", regs.r9},
        {"r10", regs.r10}, {"r11", regs.r11}, {"r12", regs.r12},      {"r13", regs.r13}, {"r14", regs.r14},
        {"r15", regs.r15}, {"rip", regs.rip}, {"rflags", regs.rflags}};
    for (const auto& [name, value] : values) {
        out.add(name, value);
    }
}

void add_special(Collector& out, const kvm_sregs& sregs) {
    const std::pair<const char*, const kvm_segment*> segments[] = {
        {"cs", &sregs.cs}, {"ds", &sregs.ds}, {"es", &sregs.es}, {"fs", &sregs.fs},
        {"gs", &sregs.gs}, {"ss", &sregs.ss}, {"tr", &sregs.tr}, {"ldt", &sregs.ldt}};
    for (const auto& [name, segment] : segments) {
        const std::string prefix = std::string(name) + ".";
        out.add(prefix + "base", segment->base);
        out.add(prefix + "limit", segment->limit);
        out.add(prefix + "selector", segment->selector);
        out.add(prefix + "type", segment->type);
        out.add(prefix + "present", segment->present);
        out.add(prefix + "dpl", segment->dpl);
        out.add(prefix + "db", segment->db);
        out.add(prefix + "s", segment->s);
        out.add(prefix + "l", segment->l);
        out.add(prefix + "g", segment->g);
    }
    for (const auto& [name, table] : {std::pair{"gdt", &sregs.gdt}, std::pair{"idt", &sregs.idt}}) {
        out.add(std::string(name) + ".base", table->base);
        out.add(std::string(name) + ".limit", table->limit);
    }
    const std::pair<const char*, __u64> values[] = {{"cr0", sregs.cr0},
                                                    {"cr2", sregs.cr2},
                                                    {"cr3", sregs.cr3},
                                                    {"cr4", sregs.cr4},
                                                    {"cr8", sregs.cr8},
                                                    {"efer", sregs.efer},
                                                    {"apic_base", sregs.apic_base}};
    for (const auto& [name, value] : values) {
        out.add(name, value);
    }
    out.add("interrupts", std::as_bytes(std::span(sregs.interrupt_bitmap)));
}

void add_debug(Collector& out, const kvm_debugregs& debug) {
    for (unsigned i = 0; i < 4; ++i) {
        out.add(numbered("dr", i), debug.db[i]);
    }
    out.add("dr6", debug.dr6);
    out.add("dr7", debug.dr7);
}

// The area as XSAVE writes it without compaction. Source: Intel SDM volume 1, 13.4.
constexpr std::size_t kLegacy = 512;
constexpr std::size_t kHeaderEnd = 576;
constexpr std::size_t kAvxEnd = kHeaderEnd + 256;

void add_extended(Collector& out, const std::vector<std::byte>& area) {
    if (area.size() < kKvmXsaveBytes) {
        throw ArgumentError("the vCPU's state has no xsave");
    }
    const std::span<const std::byte> bytes(area);
    struct Field {
        const char* name;
        std::size_t offset, size;
    };
    constexpr std::array<Field, 7> kFields{
        {{"fcw", 0, 2}, {"fsw", 2, 2}, {"ftw", 4, 1}, {"fop", 6, 2}, {"fip", 8, 8}, {"fdp", 16, 8}, {"mxcsr", 24, 4}}};
    for (const Field& field : kFields) {
        out.add(field.name, bytes.subspan(field.offset, field.size));
    }
    for (std::size_t i = 0; i < 8; ++i) {
        out.add(numbered("st", i), bytes.subspan(32 + 16 * i, 10));
    }
    for (std::size_t i = 0; i < 16; ++i) {
        out.add(numbered("xmm", i), bytes.subspan(160 + 16 * i, 16));
    }
    out.add("xstate_bv", bytes.subspan(kLegacy, 8));
    for (std::size_t i = 0; i < 16; ++i) {
        out.add(numbered("ymm", i) + "h", bytes.subspan(kHeaderEnd + 16 * i, 16));
    }
    out.add("xsave+832", bytes.subspan(kAvxEnd));
}

// Where the last component ends that XCR0 allows. CPUID's leaf 0xD has one subleaf for each: size and offset.
std::size_t extended_bytes(const VcpuState& state, std::uint64_t xcr0) {
    constexpr std::uint32_t kExtendedState = 0xD;
    constexpr std::uint64_t kAvx = 1U << 2U;
    std::uint64_t end = (xcr0 & kAvx) != 0 ? kAvxEnd : kHeaderEnd;
    const std::vector<std::byte>& entries = state.part(VcpuPart::cpuid);
    for (std::size_t at = 0; at + sizeof(kvm_cpuid_entry2) <= entries.size(); at += sizeof(kvm_cpuid_entry2)) {
        kvm_cpuid_entry2 entry{};
        std::memcpy(&entry, entries.data() + at, sizeof entry);
        if (entry.function == kExtendedState && entry.index > 1 && entry.index < 64 &&
            (xcr0 >> entry.index & 1U) != 0) {
            end = std::max(end, std::uint64_t{entry.ebx} + entry.eax);
        }
    }
    return std::min<std::uint64_t>(end, state.part(VcpuPart::xsave).size());
}

}  // namespace

FullRegisters full_registers_of(const VcpuState& state) {
    FullRegisters all;
    Collector out(all);
    add_general(out, part_of<kvm_regs>(state, VcpuPart::regs));
    add_special(out, part_of<kvm_sregs>(state, VcpuPart::sregs));
    add_debug(out, part_of<kvm_debugregs>(state, VcpuPart::debugregs));
    const std::vector<std::byte>& xsave = state.part(VcpuPart::xsave);
    add_extended(out, xsave);
    const auto xcrs = part_of<kvm_xcrs>(state, VcpuPart::xcrs);
    std::uint64_t xcr0 = 0;
    for (std::size_t i = 0; i < xcrs.nr_xcrs && i < std::size(xcrs.xcrs); ++i) {
        out.add(numbered("xcr", xcrs.xcrs[i].xcr), xcrs.xcrs[i].value);
        xcr0 = xcrs.xcrs[i].xcr == 0 ? xcrs.xcrs[i].value : xcr0;
    }
    all.xsave.assign(xsave.begin(), xsave.begin() + static_cast<std::ptrdiff_t>(extended_bytes(state, xcr0)));
    const std::vector<std::byte>& msrs = state.part(VcpuPart::msrs);
    for (std::size_t at = 0; at + sizeof(kvm_msr_entry) <= msrs.size(); at += sizeof(kvm_msr_entry)) {
        kvm_msr_entry entry{};
        std::memcpy(&entry, msrs.data() + at, sizeof entry);
        out.add(std::string("msr.").append(hex(entry.index)), entry.data);
    }
    out.add("mp_state", std::span(state.part(VcpuPart::mp_state)));
    out.add("events", std::span(state.part(VcpuPart::vcpu_events)));
    return all;
}

FullRegisters capture_full(const Kvm& kvm, Vcpu& vcpu) {
    const bool after_shutdown = vcpu.has_shut_down();
    FullRegisters all = full_registers_of(capture_vcpu(kvm, vcpu, false));
    all.after_shutdown = after_shutdown;
    return all;
}

#else

FullRegisters full_registers_of(const VcpuState& /*state*/) {
    throw SystemError(ENOTSUP, "reading a saved vCPU", "only x86-64 guests can be saved");
}

FullRegisters capture_full(const Kvm& /*kvm*/, Vcpu& vcpu) {
    const bool after_shutdown = vcpu.has_shut_down();
    if (const int error = vcpu.drain(); error != 0) {
        throw SystemError(error, "KVM_RUN(completing an instruction)");
    }
    FullRegisters all;
    all.arch = GuestArch::aarch64;
    all.after_shutdown = after_shutdown;
    for (const std::uint64_t id : vcpu.reg_list()) {
        RegisterBytes value(std::size_t{1} << (id >> 52U & 15U));
        vcpu.one_reg(id, value);
        all.registers.push_back({aarch64_register_name(id), std::move(value)});
    }
    return all;
}

#endif

}  // namespace vmthaw
