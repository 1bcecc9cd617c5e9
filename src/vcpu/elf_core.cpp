#include "vcpu/elf_core.hpp"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kFxsaveBytes = 512;
// struct elf_prstatus: what comes before the registers, the same on both architectures.
constexpr std::size_t kPrstatusPid = 32;
constexpr std::size_t kPrstatusRegisters = 112;

// struct user_regs_struct of x86-64, in its order. orig_rax is -1: no system call is under way.
constexpr std::array<const char*, 27> kX86General{
    "r15",     "r14",     "r13",         "r12",         "rbp",         "rbx",        "r11",
    "r10",     "r9",      "r8",          "rax",         "rcx",         "rdx",        "rsi",
    "rdi",     "",        "rip",         "cs.selector", "rflags",      "rsp",        "ss.selector",
    "fs.base", "gs.base", "ds.selector", "es.selector", "fs.selector", "gs.selector"};

template <typename Value>
void append(std::vector<std::byte>& out, const Value& value) {
    const std::size_t start = out.size();
    out.resize(start + sizeof value);
    std::memcpy(out.data() + start, &value, sizeof value);
}

std::vector<std::byte> general_registers(const FullRegisters& vcpu) {
    std::vector<std::byte> out;
    if (vcpu.arch == GuestArch::x86_64) {
        for (const char* const name : kX86General) {
            append(out, *name == '\0' ? ~std::uint64_t{0} : vcpu.number(name));
        }
        return out;
    }
    for (unsigned i = 0; i < 31; ++i) {
        append(out, vcpu.number(numbered("x", i)));
    }
    // The stack pointer that the current level uses: pstate.SPSel, else the one of EL0.
    const std::uint64_t pstate = vcpu.number("pstate");
    append(out, vcpu.number((pstate & 1U) != 0 ? "sp_el1" : "sp"));
    append(out, vcpu.number("pc"));
    append(out, pstate);
    return out;
}

std::vector<std::byte> floating_registers(const FullRegisters& vcpu) {
    if (vcpu.arch == GuestArch::x86_64) {
        if (vcpu.xsave.size() < kFxsaveBytes) {
            throw ArgumentError("the capture has no floating-point registers");
        }
        return {vcpu.xsave.begin(), vcpu.xsave.begin() + kFxsaveBytes};
    }
    std::vector<std::byte> out;  // struct user_fpsimd_state
    for (unsigned i = 0; i < 32; ++i) {
        const NamedRegister* const found = vcpu.find(numbered("v", i));
        const std::size_t start = out.size();
        out.resize(start + 16);
        if (found != nullptr && found->value.size() == 16) {
            std::copy(found->value.begin(), found->value.end(), out.begin() + static_cast<std::ptrdiff_t>(start));
        }
    }
    for (const char* const name : {"fpsr", "fpcr"}) {
        append(out, static_cast<std::uint32_t>(vcpu.find(name) != nullptr ? vcpu.number(name) : 0));
    }
    out.resize(out.size() + 8);
    return out;
}

// The wider registers too, where there are any: XSAVE's area, in which Linux keeps XCR0 where the processor writes
// nothing. Source: arch/x86/include/asm/user.h, struct user_xstateregs. Empty for FXSAVE's registers alone.
std::vector<std::byte> extended_registers(const FullRegisters& vcpu) {
    constexpr std::size_t kXcr0 = 464;
    constexpr std::uint64_t kBeyondSse = ~std::uint64_t{3};
    const NamedRegister* const xcr0 = vcpu.find("xcr0");
    if (vcpu.arch != GuestArch::x86_64 || xcr0 == nullptr || (vcpu.number("xcr0") & kBeyondSse) == 0 ||
        vcpu.xsave.size() < kFxsaveBytes) {
        return {};
    }
    std::vector<std::byte> area = vcpu.xsave;
    std::copy(xcr0->value.begin(), xcr0->value.end(), area.begin() + kXcr0);
    return area;
}

void append_note(std::vector<std::byte>& out, std::string_view owner, std::uint32_t type,
                 const std::vector<std::byte>& content) {
    const auto pad = [&out] { out.resize((out.size() + 3) / 4 * 4); };
    append(out, Elf64_Nhdr{static_cast<Elf64_Word>(owner.size() + 1), static_cast<Elf64_Word>(content.size()), type});
    const auto name = std::as_bytes(std::span(owner));
    out.insert(out.end(), name.begin(), name.end());
    out.push_back(std::byte{0});
    pad();
    out.insert(out.end(), content.begin(), content.end());
    pad();
}

std::vector<std::byte> notes_of(const std::vector<FullRegisters>& vcpus) {
    std::vector<std::byte> out;
    std::int32_t thread = 0;
    for (const FullRegisters& vcpu : vcpus) {
        ++thread;
        std::vector<std::byte> status(kPrstatusRegisters);
        std::memcpy(status.data() + kPrstatusPid, &thread, sizeof thread);
        const std::vector<std::byte> general = general_registers(vcpu);
        status.insert(status.end(), general.begin(), general.end());
        append(status, std::int32_t{1});  // pr_fpvalid
        status.resize((status.size() + 7) / 8 * 8);
        append_note(out, "CORE", NT_PRSTATUS, status);
        append_note(out, "CORE", NT_FPREGSET, floating_registers(vcpu));
        if (const std::vector<std::byte> extended = extended_registers(vcpu); !extended.empty()) {
            append_note(out, "LINUX", NT_X86_XSTATE, extended);
        }
    }
    return out;
}

void check(const std::vector<FullRegisters>& vcpus, const std::vector<CoreSegment>& segments) {
    if (vcpus.empty()) {
        throw ArgumentError("a core dump needs the registers of at least one vCPU");
    }
    if (std::any_of(vcpus.begin(), vcpus.end(), [&](const auto& vcpu) { return vcpu.arch != vcpus.front().arch; })) {
        throw ArgumentError("a core dump has vCPUs of one architecture");
    }
    if (segments.size() > kMostCoreSegments) {
        throw ArgumentError("a core dump of " + std::to_string(segments.size()) + " segments; " +
                            std::to_string(kMostCoreSegments) + " are possible");
    }
}

}  // namespace

std::vector<std::byte> encode_core_header(const std::vector<FullRegisters>& vcpus,
                                          const std::vector<CoreSegment>& segments) {
    check(vcpus, segments);
    const std::vector<std::byte> notes = notes_of(vcpus);
    const std::uint64_t notes_offset = sizeof(Elf64_Ehdr) + (segments.size() + 1) * sizeof(Elf64_Phdr);
    const std::uint64_t memory_offset = (notes_offset + notes.size() + kPageBytes - 1) / kPageBytes * kPageBytes;

    Elf64_Ehdr header{};
    std::memcpy(static_cast<void*>(header.e_ident), ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = vcpus.front().arch == GuestArch::x86_64 ? EM_X86_64 : EM_AARCH64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<Elf64_Half>(segments.size() + 1);

    std::vector<std::byte> out;
    append(out, header);
    append(out, Elf64_Phdr{PT_NOTE, 0, notes_offset, 0, 0, notes.size(), 0, 4});
    for (const CoreSegment& segment : segments) {
        const Elf64_Word flags =
            static_cast<Elf64_Word>(PF_R) | (segment.writable ? PF_W : 0U) | (segment.executable ? PF_X : 0U);
        append(out, Elf64_Phdr{PT_LOAD, flags, memory_offset + segment.memory_offset, segment.address,
                               segment.guest_physical, segment.size_bytes, segment.size_bytes, kPageBytes});
    }
    out.insert(out.end(), notes.begin(), notes.end());
    out.resize(memory_offset);
    return out;
}

}  // namespace vmthaw
