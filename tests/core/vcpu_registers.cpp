#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "vcpu/elf_core.hpp"
#include "vcpu/full_registers.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw {
namespace {

RegisterBytes bytes_of(std::uint64_t value) {
    RegisterBytes bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

TEST(RegisterSnapshot, TextForm) {
    RegisterSnapshot snapshot{0xFFFF'8000'0000'1234, 0x7FFE, 0x1000, std::nullopt, std::nullopt};
    EXPECT_EQ(snapshot.to_text(), "ip=0xffff800000001234 sp=0x0000000000007ffe ptroot=0x0000000000001000");
    snapshot.user_page_table_root = 0xABC;
    snapshot.tcr_el1 = 5;
    EXPECT_EQ(snapshot.to_text(),
              "ip=0xffff800000001234 sp=0x0000000000007ffe ptroot=0x0000000000001000 uptroot=0x0000000000000abc");
}

TEST(RegisterSnapshot, JsonLeavesOutWhatIsAbsentAndComesBack) {
    RegisterSnapshot snapshot{~std::uint64_t{0}, 2, 3, std::nullopt, std::nullopt};
    EXPECT_EQ(snapshot.to_json(),
              R"({"instruction_pointer":18446744073709551615,"stack_pointer":2,"page_table_root":3})");
    EXPECT_EQ(RegisterSnapshot::from_json(snapshot.to_json()), snapshot);
    snapshot.user_page_table_root = 0;
    snapshot.tcr_el1 = 7;
    EXPECT_EQ(snapshot.to_json(), R"({"instruction_pointer":18446744073709551615,"stack_pointer":2,)"
                                  R"("page_table_root":3,"user_page_table_root":0,"tcr_el1":7})");
    EXPECT_EQ(RegisterSnapshot::from_json(snapshot.to_json()), snapshot);
    EXPECT_EQ(RegisterSnapshot::from_json(R"({"tcr_el1":null,"page_table_root":3,"stack_pointer":2,
                                              "instruction_pointer":1,"other":[]})"),
              (RegisterSnapshot{1, 2, 3, std::nullopt, std::nullopt}));
}

TEST(RegisterSnapshot, JsonThatIsWrongIsNamed) {
    const std::pair<std::string, std::string> wrong[] = {
        {"", "one JSON object"},
        {"[]", "one JSON object"},
        {R"({"stack_pointer":2,"page_table_root":3})", "without instruction_pointer"},
        {R"({"instruction_pointer":1,"stack_pointer":null,"page_table_root":3})", "stack_pointer is not a number"},
        {R"({"instruction_pointer":1,"stack_pointer":-2,"page_table_root":3})", "stack_pointer is not a number"},
        {R"({"instruction_pointer":1,"stack_pointer":2,"page_table_root":3.5})", "page_table_root is not a number"},
        {R"({"instruction_pointer":1,"stack_pointer":2,"page_table_root":18446744073709551616})", "page_table_root"},
        {R"({"instruction_pointer":1,"stack_pointer":2,"page_table_root":3,"tcr_el1":"5"})", "tcr_el1"},
        {std::string(5000, ' '), "5000 bytes"}};
    for (const auto& [text, complaint] : wrong) {
        try {
            (void)RegisterSnapshot::from_json(text);
            ADD_FAILURE() << text;
        } catch (const ArgumentError& error) {
            EXPECT_NE(std::string(error.what()).find(complaint), std::string::npos) << error.what();
        }
    }
}

TEST(Aarch64Registers, NumbersAreTheKernels) {
    EXPECT_EQ(kRegisterPc, 0x6030000000100040U);
    EXPECT_EQ(kRegisterSpEl1, 0x6030000000100044U);
    EXPECT_EQ(kRegisterTtbr0, 0x603000000013C100U);
    EXPECT_EQ(kRegisterTtbr1, 0x603000000013C101U);
    EXPECT_EQ(kRegisterTcr, 0x603000000013C102U);
}

TEST(Aarch64Registers, ASnapshotNeedsPcAndSpAlone) {
    std::map<std::uint64_t, std::uint64_t> registers{
        {kRegisterPc, 1}, {kRegisterSpEl1, 2}, {kRegisterTtbr1, 3}, {kRegisterTtbr0, 4}, {kRegisterTcr, 5}};
    const auto read = [&](std::uint64_t number) {
        const auto found = registers.find(number);
        return found == registers.end() ? std::nullopt : std::optional(found->second);
    };
    EXPECT_EQ(aarch64_snapshot(read), (RegisterSnapshot{1, 2, 3, 4, 5}));
    registers.erase(kRegisterTtbr1);
    EXPECT_EQ(aarch64_snapshot(read), (RegisterSnapshot{1, 2, 0, 4, 5}));
    registers.erase(kRegisterTtbr0);
    EXPECT_EQ(aarch64_snapshot(read), (RegisterSnapshot{1, 2, 0, std::nullopt, 5}));
    registers.erase(kRegisterTcr);
    EXPECT_EQ(aarch64_snapshot(read), (RegisterSnapshot{1, 2, 0, std::nullopt, std::nullopt}));
    for (const std::uint64_t needed : {kRegisterPc, kRegisterSpEl1}) {
        auto without = registers.extract(needed);
        EXPECT_EQ(aarch64_snapshot(read), std::nullopt);
        registers.insert(std::move(without));
    }
}

TEST(Aarch64Registers, NamesByNumber) {
    EXPECT_EQ(aarch64_register_name(0x6030000000100000), "x0");
    EXPECT_EQ(aarch64_register_name(0x603000000010003C), "x30");
    EXPECT_EQ(aarch64_register_name(0x603000000010003E), "sp");
    EXPECT_EQ(aarch64_register_name(kRegisterPc), "pc");
    EXPECT_EQ(aarch64_register_name(0x6030000000100042), "pstate");
    EXPECT_EQ(aarch64_register_name(kRegisterSpEl1), "sp_el1");
    EXPECT_EQ(aarch64_register_name(0x6030000000100048), "spsr_el1");
    EXPECT_EQ(aarch64_register_name(0x6030000000100050), "spsr_fiq");
    EXPECT_EQ(aarch64_register_name(0x6040000000100054), "v0");
    EXPECT_EQ(aarch64_register_name(0x60400000001000D0), "v31");
    EXPECT_EQ(aarch64_register_name(0x60200000001000D4), "fpsr");
    EXPECT_EQ(aarch64_register_name(0x60200000001000D5), "fpcr");
    EXPECT_EQ(aarch64_register_name(kRegisterTcr), "s3_0_c2_c0_2");
    EXPECT_EQ(aarch64_register_name(0x6030000000140000), "reg.0x6030000000140000");
}

FullRegisters aarch64_vcpu() {
    FullRegisters vcpu;
    vcpu.arch = GuestArch::aarch64;
    for (std::uint64_t i = 0; i < 31; ++i) {
        vcpu.registers.push_back({numbered("x", i), bytes_of(0x100 + i)});
    }
    for (const auto& [name, value] : {std::pair{"sp", 0x10}, {"pc", 0x20}, {"pstate", 0x3C5}, {"sp_el1", 0x40}}) {
        vcpu.registers.push_back({name, bytes_of(static_cast<std::uint64_t>(value))});
    }
    return vcpu;
}

TEST(FullRegisters, DifferencesInOrder) {
    const FullRegisters before = aarch64_vcpu();
    FullRegisters after = before;
    after.registers[2].value = bytes_of(7);
    after.registers.erase(after.registers.begin());
    after.registers.push_back({"new", bytes_of(1)});
    const auto found = diff(before, after);
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found[0].name, "x0");
    EXPECT_FALSE(found[0].after.has_value());
    EXPECT_EQ(found[1].name, "x2");
    EXPECT_EQ(found[1].before, std::optional(bytes_of(0x102)));
    EXPECT_EQ(found[1].after, std::optional(bytes_of(7)));
    EXPECT_EQ(found[2].name, "new");
    EXPECT_FALSE(found[2].before.has_value());
    EXPECT_TRUE(diff(before, before).empty());
    EXPECT_THROW((void)diff(before, FullRegisters{}), ArgumentError);
}

TEST(FullRegisters, PagingStateOfAarch64) {
    FullRegisters vcpu = aarch64_vcpu();
    EXPECT_THROW((void)vcpu.paging_state(), ArgumentError);
    for (const auto& [name, value] : {std::pair{"s3_0_c2_c0_0", 1}, {"s3_0_c2_c0_1", 2}, {"s3_0_c2_c0_2", 3}}) {
        vcpu.registers.push_back({name, bytes_of(static_cast<std::uint64_t>(value))});
    }
    vcpu.registers.push_back({"s3_0_c1_c0_0", bytes_of(0)});
    EXPECT_FALSE(vcpu.paging_state().is_mmu_on);
    vcpu.registers.back().value = bytes_of(1);
    EXPECT_TRUE(vcpu.paging_state().is_mmu_on);
    EXPECT_EQ(vcpu.paging_state().ttbr1, 2U);
    EXPECT_EQ(vcpu.paging_state().tcr, 3U);
}

template <typename Value>
Value value_at(const std::vector<std::byte>& bytes, std::size_t offset) {
    Value value{};
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

TEST(ElfCore, Aarch64ThreadsAndSegments) {
    const std::vector<std::byte> core = encode_core_header(
        {aarch64_vcpu(), aarch64_vcpu()}, {{0xFFFF'0000'0000'0000, 0x1000, 0x2000, 0x4000, true, false}});
    ASSERT_EQ(core.size() % 4096, 0U);
    const auto header = value_at<Elf64_Ehdr>(core, 0);
    EXPECT_EQ(header.e_type, ET_CORE);
    EXPECT_EQ(header.e_machine, EM_AARCH64);
    ASSERT_EQ(header.e_phnum, 2);
    const auto notes = value_at<Elf64_Phdr>(core, header.e_phoff);
    const auto load = value_at<Elf64_Phdr>(core, header.e_phoff + sizeof(Elf64_Phdr));
    EXPECT_EQ(notes.p_type, static_cast<Elf64_Word>(PT_NOTE));
    EXPECT_EQ(load.p_vaddr, 0xFFFF'0000'0000'0000U);
    EXPECT_EQ(load.p_paddr, 0x1000U);
    EXPECT_EQ(load.p_offset, core.size() + 0x4000);
    EXPECT_EQ(load.p_flags, static_cast<Elf64_Word>(PF_R | PF_W));
    // Two notes for each vCPU, of the sizes of Linux' structures (392 and 528 bytes).
    const auto status = value_at<Elf64_Nhdr>(core, notes.p_offset);
    EXPECT_EQ(status.n_type, static_cast<Elf64_Word>(NT_PRSTATUS));
    EXPECT_EQ(status.n_descsz, 392U);
    const std::size_t description = notes.p_offset + sizeof status + 8;
    EXPECT_EQ(value_at<std::int32_t>(core, description + 32), 1);
    EXPECT_EQ(value_at<std::uint64_t>(core, description + 112 + 8 * 30), 0x11EU);
    EXPECT_EQ(value_at<std::uint64_t>(core, description + 112 + 8 * 31), 0x40U);  // EL1h: SP_EL1
    EXPECT_EQ(value_at<std::uint64_t>(core, description + 112 + 8 * 32), 0x20U);
    const auto floating = value_at<Elf64_Nhdr>(core, description + 392);
    EXPECT_EQ(floating.n_type, static_cast<Elf64_Word>(NT_FPREGSET));
    EXPECT_EQ(floating.n_descsz, 528U);
    EXPECT_EQ(notes.p_filesz, 2 * (20U + 392U + 20U + 528U));
}

FullRegisters x86_vcpu(std::uint64_t xcr0) {
    FullRegisters vcpu;
    std::uint64_t value = 0x100;
    for (const char* const name :
         {"r15",     "r14",     "r13",         "r12",         "rbp",         "rbx",        "r11",
          "r10",     "r9",      "r8",          "rax",         "rcx",         "rdx",        "rsi",
          "rdi",     "orig",    "rip",         "cs.selector", "rflags",      "rsp",        "ss.selector",
          "fs.base", "gs.base", "ds.selector", "es.selector", "fs.selector", "gs.selector"}) {
        vcpu.registers.push_back({name, bytes_of(value++)});
    }
    vcpu.registers.push_back({"xcr0", bytes_of(xcr0)});
    vcpu.xsave = RegisterBytes(xcr0 > 3 ? 832 : 576, std::byte{0x5A});
    return vcpu;
}

TEST(ElfCore, X86ThreadsHaveLinuxsOrderOfRegistersAndTheWideOnesWhereXcr0AllowsThem) {
    const std::vector<std::byte> core = encode_core_header({x86_vcpu(7)}, {});
    const auto notes = value_at<Elf64_Phdr>(core, sizeof(Elf64_Ehdr));
    EXPECT_EQ(value_at<Elf64_Ehdr>(core, 0).e_machine, EM_X86_64);
    const auto status = value_at<Elf64_Nhdr>(core, notes.p_offset);
    EXPECT_EQ(status.n_descsz, 336U);  // sizeof(struct elf_prstatus)
    const std::size_t description = notes.p_offset + sizeof status + 8;
    for (std::size_t i = 0; i < 27; ++i) {
        EXPECT_EQ(value_at<std::uint64_t>(core, description + 112 + 8 * i), i == 15 ? ~std::uint64_t{0} : 0x100 + i);
    }
    const std::size_t floating = description + 336;
    EXPECT_EQ(value_at<Elf64_Nhdr>(core, floating).n_type, static_cast<Elf64_Word>(NT_FPREGSET));
    EXPECT_EQ(value_at<Elf64_Nhdr>(core, floating).n_descsz, 512U);
    const std::size_t wide = floating + 20 + 512;
    EXPECT_EQ(value_at<Elf64_Nhdr>(core, wide).n_type, static_cast<Elf64_Word>(NT_X86_XSTATE));
    EXPECT_EQ(value_at<Elf64_Nhdr>(core, wide).n_descsz, 832U);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(core.data() + wide + 12)), "LINUX");
    EXPECT_EQ(value_at<std::uint64_t>(core, wide + 20 + 464), 7U);
    EXPECT_EQ(value_at<std::uint8_t>(core, wide + 20 + 831), 0x5A);
    EXPECT_EQ(notes.p_filesz, 20U + 336U + 20U + 512U + 20U + 832U);
    const std::vector<std::byte> narrow = encode_core_header({x86_vcpu(3)}, {});
    EXPECT_EQ(value_at<Elf64_Phdr>(narrow, sizeof(Elf64_Ehdr)).p_filesz, 20U + 336U + 20U + 512U);
}

TEST(ElfCore, WhatCannotBeWrittenIsRefused) {
    EXPECT_THROW((void)encode_core_header({}, {}), ArgumentError);
    EXPECT_THROW((void)encode_core_header({FullRegisters{}}, {}), ArgumentError);
    EXPECT_THROW((void)encode_core_header({aarch64_vcpu(), FullRegisters{}}, {}), ArgumentError);
    EXPECT_THROW((void)encode_core_header({aarch64_vcpu()}, std::vector<CoreSegment>(kMostCoreSegments + 1)),
                 ArgumentError);
}

}  // namespace
}  // namespace vmthaw
