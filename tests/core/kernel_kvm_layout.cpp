// Our numbers and places of struct kvm_run against the kernel's header, as far as the one that is installed goes.
#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "kernel/kvm.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {
namespace {

// What each name of ours ends in is the kernel's name: "HLT" is KVM_EXIT_HLT.
#define VMTHAW_REASON(name) \
    std::pair<std::uint32_t, std::string_view> { KVM_EXIT_##name, #name }

TEST(KvmLayout, ExitReasonsHaveTheKernelsNumbers) {
    constexpr std::array kReasons{
        VMTHAW_REASON(UNKNOWN),
        VMTHAW_REASON(EXCEPTION),
        VMTHAW_REASON(IO),
        VMTHAW_REASON(HYPERCALL),
        VMTHAW_REASON(DEBUG),
        VMTHAW_REASON(HLT),
        VMTHAW_REASON(MMIO),
        VMTHAW_REASON(IRQ_WINDOW_OPEN),
        VMTHAW_REASON(SHUTDOWN),
        VMTHAW_REASON(FAIL_ENTRY),
        VMTHAW_REASON(INTR),
        VMTHAW_REASON(SET_TPR),
        VMTHAW_REASON(TPR_ACCESS),
        VMTHAW_REASON(S390_SIEIC),
        VMTHAW_REASON(S390_RESET),
        VMTHAW_REASON(DCR),
        VMTHAW_REASON(NMI),
        VMTHAW_REASON(INTERNAL_ERROR),
        VMTHAW_REASON(OSI),
        VMTHAW_REASON(PAPR_HCALL),
        VMTHAW_REASON(S390_UCONTROL),
        VMTHAW_REASON(WATCHDOG),
        VMTHAW_REASON(S390_TSCH),
        VMTHAW_REASON(EPR),
        VMTHAW_REASON(SYSTEM_EVENT),
        VMTHAW_REASON(S390_STSI),
        VMTHAW_REASON(IOAPIC_EOI),
        VMTHAW_REASON(HYPERV),
        VMTHAW_REASON(ARM_NISV),
        VMTHAW_REASON(X86_RDMSR),
        VMTHAW_REASON(X86_WRMSR),
        VMTHAW_REASON(DIRTY_RING_FULL),
        VMTHAW_REASON(AP_RESET_HOLD),
        VMTHAW_REASON(X86_BUS_LOCK),
        VMTHAW_REASON(XEN),
        VMTHAW_REASON(RISCV_SBI),
        VMTHAW_REASON(RISCV_CSR),
        VMTHAW_REASON(NOTIFY),
#if defined(KVM_EXIT_LOONGARCH_IOCSR)
        VMTHAW_REASON(LOONGARCH_IOCSR),
#endif
#if defined(KVM_EXIT_MEMORY_FAULT)
        VMTHAW_REASON(MEMORY_FAULT),
#endif
#if defined(KVM_EXIT_TDX)
        VMTHAW_REASON(TDX),
#endif
#if defined(KVM_EXIT_ARM_SEA)
        VMTHAW_REASON(ARM_SEA),
#endif
    };
    for (const auto& [number, name] : kReasons) {
        EXPECT_EQ(kKvmExitNames[number], name) << number;
    }
    EXPECT_EQ(kKvmExitUnknown, std::uint32_t{KVM_EXIT_UNKNOWN});
    EXPECT_EQ(kKvmExitException, std::uint32_t{KVM_EXIT_EXCEPTION});
    EXPECT_EQ(kKvmExitIo, std::uint32_t{KVM_EXIT_IO});
    EXPECT_EQ(kKvmExitHypercall, std::uint32_t{KVM_EXIT_HYPERCALL});
    EXPECT_EQ(kKvmExitDebug, std::uint32_t{KVM_EXIT_DEBUG});
    EXPECT_EQ(kKvmExitHlt, std::uint32_t{KVM_EXIT_HLT});
    EXPECT_EQ(kKvmExitMmio, std::uint32_t{KVM_EXIT_MMIO});
    EXPECT_EQ(kKvmExitShutdown, std::uint32_t{KVM_EXIT_SHUTDOWN});
    EXPECT_EQ(kKvmExitFailEntry, std::uint32_t{KVM_EXIT_FAIL_ENTRY});
    EXPECT_EQ(kKvmExitInternalError, std::uint32_t{KVM_EXIT_INTERNAL_ERROR});
    EXPECT_EQ(kKvmExitSystemEvent, std::uint32_t{KVM_EXIT_SYSTEM_EVENT});
    EXPECT_EQ(kKvmExitHyperv, std::uint32_t{KVM_EXIT_HYPERV});
    EXPECT_EQ(kKvmExitX86Rdmsr, std::uint32_t{KVM_EXIT_X86_RDMSR});
    EXPECT_EQ(kKvmExitX86Wrmsr, std::uint32_t{KVM_EXIT_X86_WRMSR});
    EXPECT_EQ(kKvmExitMemoryFault, 39U);
    EXPECT_EQ(kKvmExitLast, 43U);
}
#undef VMTHAW_REASON

TEST(KvmLayout, SystemEventsAndInternalErrorsHaveTheKernelsNumbers) {
    EXPECT_EQ(kKvmSystemEventShutdown, std::uint32_t{KVM_SYSTEM_EVENT_SHUTDOWN});
    EXPECT_EQ(kKvmSystemEventReset, std::uint32_t{KVM_SYSTEM_EVENT_RESET});
    EXPECT_EQ(kKvmSystemEventCrash, std::uint32_t{KVM_SYSTEM_EVENT_CRASH});
    EXPECT_EQ(kKvmSystemEventWakeup, std::uint32_t{KVM_SYSTEM_EVENT_WAKEUP});
    EXPECT_EQ(kKvmSystemEventSuspend, std::uint32_t{KVM_SYSTEM_EVENT_SUSPEND});
    EXPECT_EQ(kKvmSystemEventSevTerm, std::uint32_t{KVM_SYSTEM_EVENT_SEV_TERM});
    EXPECT_EQ(kKvmSystemEventTdxFatal, 7U);
    EXPECT_EQ(kKvmInternalErrorEmulation, std::uint32_t{KVM_INTERNAL_ERROR_EMULATION});
    EXPECT_EQ(kKvmInternalErrorSimultaneousException, std::uint32_t{KVM_INTERNAL_ERROR_SIMUL_EX});
    EXPECT_EQ(kKvmInternalErrorDeliveryEvent, std::uint32_t{KVM_INTERNAL_ERROR_DELIVERY_EV});
    EXPECT_EQ(kKvmInternalErrorUnexpectedExitReason, std::uint32_t{KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON});
    EXPECT_EQ(kErrnoHwPoison, 133);
}

TEST(KvmLayout, WhatLiesBesideThePayloadIsWhereTheKernelPutsIt) {
    EXPECT_EQ(kKvmRunImmediateExit, offsetof(kvm_run, immediate_exit));
    EXPECT_EQ(kKvmRunExitReason, offsetof(kvm_run, exit_reason));
    EXPECT_EQ(kKvmRunFlags, offsetof(kvm_run, flags));
    EXPECT_EQ(kKvmRunCr8, offsetof(kvm_run, cr8));
    EXPECT_EQ(kKvmRunPayload, offsetof(kvm_run, hw));
    EXPECT_EQ(kKvmRunPayload + kKvmRunPayloadBytes, offsetof(kvm_run, kvm_valid_regs));
    EXPECT_EQ(kKvmRunValidRegs, offsetof(kvm_run, kvm_valid_regs));
    EXPECT_EQ(kKvmRunSyncRegs, offsetof(kvm_run, s));
}

struct KernelField {
    std::uint32_t reason;
    std::string_view name;                        // ours
    std::span<std::byte> (*bytes)(kvm_run& run);  // the kernel's
};

#define VMTHAW_FIELD(reason, name, kernels)                                                                      \
    KernelField {                                                                                                \
        KVM_EXIT_##reason, name, [](kvm_run& run) { return std::as_writable_bytes(std::span(&run.kernels, 1)); } \
    }
constexpr KernelField kFields[] = {
    VMTHAW_FIELD(UNKNOWN, "hardware_exit_reason", hw.hardware_exit_reason),
    VMTHAW_FIELD(SET_TPR, "cr8", cr8),
    VMTHAW_FIELD(TPR_ACCESS, "instruction_pointer", tpr_access.rip),
    VMTHAW_FIELD(TPR_ACCESS, "is_write", tpr_access.is_write),
    VMTHAW_FIELD(S390_SIEIC, "icptcode", s390_sieic.icptcode),
    VMTHAW_FIELD(S390_SIEIC, "ipa", s390_sieic.ipa),
    VMTHAW_FIELD(S390_SIEIC, "ipb", s390_sieic.ipb),
    VMTHAW_FIELD(S390_RESET, "flags", s390_reset_flags),
    VMTHAW_FIELD(DCR, "dcrn", dcr.dcrn),
    VMTHAW_FIELD(DCR, "data", dcr.data),
    VMTHAW_FIELD(DCR, "is_write", dcr.is_write),
    VMTHAW_FIELD(OSI, "gprs", osi.gprs),
    VMTHAW_FIELD(PAPR_HCALL, "number", papr_hcall.nr),
    VMTHAW_FIELD(PAPR_HCALL, "result", papr_hcall.ret),
    VMTHAW_FIELD(PAPR_HCALL, "arguments", papr_hcall.args),
    VMTHAW_FIELD(S390_UCONTROL, "trans_exc_code", s390_ucontrol.trans_exc_code),
    VMTHAW_FIELD(S390_UCONTROL, "pgm_code", s390_ucontrol.pgm_code),
    VMTHAW_FIELD(S390_TSCH, "subchannel_id", s390_tsch.subchannel_id),
    VMTHAW_FIELD(S390_TSCH, "subchannel_nr", s390_tsch.subchannel_nr),
    VMTHAW_FIELD(S390_TSCH, "io_int_parm", s390_tsch.io_int_parm),
    VMTHAW_FIELD(S390_TSCH, "io_int_word", s390_tsch.io_int_word),
    VMTHAW_FIELD(S390_TSCH, "ipb", s390_tsch.ipb),
    VMTHAW_FIELD(S390_TSCH, "dequeued", s390_tsch.dequeued),
    VMTHAW_FIELD(EPR, "epr", epr.epr),
    VMTHAW_FIELD(S390_STSI, "guest_address", s390_stsi.addr),
    VMTHAW_FIELD(S390_STSI, "ar", s390_stsi.ar),
    VMTHAW_FIELD(S390_STSI, "fc", s390_stsi.fc),
    VMTHAW_FIELD(S390_STSI, "sel1", s390_stsi.sel1),
    VMTHAW_FIELD(S390_STSI, "sel2", s390_stsi.sel2),
    VMTHAW_FIELD(IOAPIC_EOI, "vector", eoi.vector),
    VMTHAW_FIELD(HYPERV, "type", hyperv.type),
    VMTHAW_FIELD(ARM_NISV, "esr_iss", arm_nisv.esr_iss),
    VMTHAW_FIELD(ARM_NISV, "guest_address", arm_nisv.fault_ipa),
    VMTHAW_FIELD(X86_BUS_LOCK, "flags", flags),
    VMTHAW_FIELD(XEN, "type", xen.type),
    VMTHAW_FIELD(XEN, "long_mode", xen.u.hcall.longmode),
    VMTHAW_FIELD(XEN, "cpl", xen.u.hcall.cpl),
    VMTHAW_FIELD(XEN, "input", xen.u.hcall.input),
    VMTHAW_FIELD(XEN, "result", xen.u.hcall.result),
    VMTHAW_FIELD(XEN, "params", xen.u.hcall.params),
    VMTHAW_FIELD(RISCV_SBI, "extension_id", riscv_sbi.extension_id),
    VMTHAW_FIELD(RISCV_SBI, "function_id", riscv_sbi.function_id),
    VMTHAW_FIELD(RISCV_SBI, "arguments", riscv_sbi.args),
    VMTHAW_FIELD(RISCV_SBI, "result", riscv_sbi.ret),
    VMTHAW_FIELD(RISCV_CSR, "number", riscv_csr.csr_num),
    VMTHAW_FIELD(RISCV_CSR, "new_value", riscv_csr.new_value),
    VMTHAW_FIELD(RISCV_CSR, "write_mask", riscv_csr.write_mask),
    VMTHAW_FIELD(RISCV_CSR, "result", riscv_csr.ret_value),
    VMTHAW_FIELD(NOTIFY, "flags", notify.flags),
};
#undef VMTHAW_FIELD

std::uint64_t filled(std::size_t bytes) {
    std::uint64_t value = 0;
    std::memset(&value, 0xA5, bytes);
    return value;
}

// In a run where one field alone is not zero, our field of that name is filled, and every other one empty.
TEST(KvmLayout, FieldsOfExitsWithoutAStructureLieWhereTheKernelPutsThem) {
    for (const KernelField& one : kFields) {
        kvm_run run{};
        run.exit_reason = one.reason;
        const std::span<std::byte> bytes = one.bytes(run);
        std::ranges::fill(bytes, std::byte{0xA5});
        const Exit exit = decode_exit(GuestArch::x86_64, 0, 0, std::as_bytes(std::span(&run, 1)));
        const auto* const payload = std::get_if<FieldsExit>(&exit.payload);
        ASSERT_NE(payload, nullptr) << exit.name();
        bool is_there = false;
        for (const ExitField& field : payload->fields) {
            const bool is_this = field.name == one.name;
            is_there = is_there || is_this;
            for (std::size_t i = 0; i < field.count; ++i) {
                EXPECT_EQ(payload->value(field, i), is_this ? filled(field.size_bytes) : 0U)
                    << exit.name() << ": " << field.name << ", filled " << one.name;
            }
            if (is_this) {
                EXPECT_EQ(std::size_t{field.size_bytes} * field.count, bytes.size()) << exit.name();
            }
        }
        EXPECT_TRUE(is_there) << exit.name() << ": " << one.name;
    }
}

template <typename Payload, typename Fill>
Payload decoded(std::uint32_t reason, const Fill& fill) {
    kvm_run run{};
    run.exit_reason = reason;
    fill(run);
    const Exit exit = decode_exit(GuestArch::x86_64, 0, 0, std::as_bytes(std::span(&run, 1)));
    const auto* const payload = std::get_if<Payload>(&exit.payload);
    EXPECT_NE(payload, nullptr) << exit.describe();
    return payload != nullptr ? *payload : Payload{};
}

TEST(KvmLayout, PayloadsWithAStructureAreDecodedFromTheKernels) {
    const auto io = decoded<IoExit>(KVM_EXIT_IO, [](kvm_run& run) {
        run.io.direction = KVM_EXIT_IO_OUT;
        run.io.size = 2;
        run.io.port = 0x1234;
        run.io.count = 3;
        run.io.data_offset = 0x100;
    });
    EXPECT_TRUE(io.is_write && io.size_bytes == 2 && io.port == 0x1234 && io.count == 3 && io.data_offset == 0x100);
    const auto mmio = decoded<MmioExit>(KVM_EXIT_MMIO, [](kvm_run& run) {
        run.mmio.phys_addr = 0x1122334455667788;
        run.mmio.data[7] = 9;
        run.mmio.len = 8;
        run.mmio.is_write = 1;
    });
    EXPECT_TRUE(mmio.is_write && mmio.guest_address == 0x1122334455667788 && mmio.size_bytes == 8 && mmio.data[7] == 9);
    const auto fail = decoded<FailEntryExit>(KVM_EXIT_FAIL_ENTRY, [](kvm_run& run) {
        run.fail_entry.hardware_entry_failure_reason = 0x8000000000000021;
        run.fail_entry.cpu = 5;
    });
    EXPECT_TRUE(fail.hardware_reason == 0x8000000000000021 && fail.cpu == 5);
    const auto error = decoded<InternalErrorExit>(KVM_EXIT_INTERNAL_ERROR, [](kvm_run& run) {
        run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
        run.emulation_failure.ndata = 3;
        run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
        run.emulation_failure.insn_size = 15;
        run.emulation_failure.insn_bytes[0] = 0x0F;
        run.emulation_failure.insn_bytes[14] = 0x90;
    });
    EXPECT_TRUE(error.suberror == 1 && error.data_count == 3 && error.instruction_size == 15);
    EXPECT_TRUE(error.instruction.front() == 0x0F && error.instruction.back() == 0x90);
    const auto event = decoded<SystemEventExit>(KVM_EXIT_SYSTEM_EVENT, [](kvm_run& run) {
        run.system_event.type = KVM_SYSTEM_EVENT_RESET;
        run.system_event.ndata = 16;
        run.system_event.data[15] = 7;
    });
    EXPECT_TRUE(event.type == 2 && event.data_count == 16 && event.data.back() == 7);
    const auto exception = decoded<ExceptionExit>(KVM_EXIT_EXCEPTION, [](kvm_run& run) {
        run.ex.exception = 14;
        run.ex.error_code = 2;
    });
    EXPECT_TRUE(exception.exception == 14 && exception.error_code == 2);
    const auto call = decoded<HypercallExit>(KVM_EXIT_HYPERCALL, [](kvm_run& run) {
        run.hypercall.nr = 12;
        run.hypercall.args[5] = 6;
        run.hypercall.ret = 77;
    });
    EXPECT_TRUE(call.number == 12 && call.arguments.back() == 6 && call.result == 77);
    const auto msr = decoded<MsrExit>(KVM_EXIT_X86_WRMSR, [](kvm_run& run) {
        run.msr.reason = 4;
        run.msr.index = 0xC0000082;
        run.msr.data = 8;
    });
    EXPECT_TRUE(msr.is_write && msr.reason == 4 && msr.index == 0xC0000082 && msr.value == 8);
#if defined(__x86_64__)
    const auto debug = decoded<DebugExit>(KVM_EXIT_DEBUG, [](kvm_run& run) {
        run.debug.arch.exception = 1;
        run.debug.arch.pc = 0x1000;
        run.debug.arch.dr6 = 0xFFFF0FF1;
        run.debug.arch.dr7 = 0xD0703;
    });
    EXPECT_TRUE(debug.exception == 1 && debug.instruction_pointer == 0x1000);
    EXPECT_TRUE(debug.dr6 == 0xFFFF0FF1 && debug.dr7 == 0xD0703);
    const auto synced = decoded<InternalErrorExit>(KVM_EXIT_INTERNAL_ERROR, [](kvm_run& run) {
        run.kvm_valid_regs = KVM_SYNC_X86_REGS;
        run.s.regs.regs.rax = 1;
        run.s.regs.regs.r8 = 9;
        run.s.regs.regs.rip = 17;
        run.s.regs.regs.rflags = 18;
    });
    EXPECT_TRUE(synced.has_registers && synced.registers[0] == 1 && synced.registers[8] == 9);
    EXPECT_TRUE(synced.registers[16] == 17 && synced.registers[17] == 18);
#endif
}

}  // namespace
}  // namespace vmthaw
