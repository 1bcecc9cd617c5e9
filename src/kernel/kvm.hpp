#pragma once

#include <linux/ioctl.h>

#include <cstddef>
#include <cstdint>

// What <linux/kvm.h> of distributions lacks, and the layout of struct kvm_run as bytes, so that the exits of either
// architecture can be decoded on any host. Source: include/uapi/linux/kvm.h and arch/{x86,arm64}/include/uapi/asm/kvm.h
// of Linux 6.18; numbers never change there.
namespace vmthaw {

inline constexpr std::uint32_t kKvmExitUnknown = 0;
inline constexpr std::uint32_t kKvmExitException = 1;
inline constexpr std::uint32_t kKvmExitIo = 2;
inline constexpr std::uint32_t kKvmExitHypercall = 3;
inline constexpr std::uint32_t kKvmExitDebug = 4;
inline constexpr std::uint32_t kKvmExitHlt = 5;
inline constexpr std::uint32_t kKvmExitMmio = 6;
inline constexpr std::uint32_t kKvmExitShutdown = 8;
inline constexpr std::uint32_t kKvmExitFailEntry = 9;
inline constexpr std::uint32_t kKvmExitInternalError = 17;
inline constexpr std::uint32_t kKvmExitSystemEvent = 24;
inline constexpr std::uint32_t kKvmExitHyperv = 27;
inline constexpr std::uint32_t kKvmExitX86Rdmsr = 29;
inline constexpr std::uint32_t kKvmExitX86Wrmsr = 30;
inline constexpr std::uint32_t kKvmExitDirtyRingFull = 31;
inline constexpr std::uint32_t kKvmExitMemoryFault = 39;  // Linux 6.8
inline constexpr std::uint32_t kKvmExitLast = 43;         // SNP_REQ_CERTS

// Names by number, 0 to kKvmExitLast.
inline constexpr const char* kKvmExitNames[kKvmExitLast + 1] = {"UNKNOWN",
                                                                "EXCEPTION",
                                                                "IO",
                                                                "HYPERCALL",
                                                                "DEBUG",
                                                                "HLT",
                                                                "MMIO",
                                                                "IRQ_WINDOW_OPEN",
                                                                "SHUTDOWN",
                                                                "FAIL_ENTRY",
                                                                "INTR",
                                                                "SET_TPR",
                                                                "TPR_ACCESS",
                                                                "S390_SIEIC",
                                                                "S390_RESET",
                                                                "DCR",
                                                                "NMI",
                                                                "INTERNAL_ERROR",
                                                                "OSI",
                                                                "PAPR_HCALL",
                                                                "S390_UCONTROL",
                                                                "WATCHDOG",
                                                                "S390_TSCH",
                                                                "EPR",
                                                                "SYSTEM_EVENT",
                                                                "S390_STSI",
                                                                "IOAPIC_EOI",
                                                                "HYPERV",
                                                                "ARM_NISV",
                                                                "X86_RDMSR",
                                                                "X86_WRMSR",
                                                                "DIRTY_RING_FULL",
                                                                "AP_RESET_HOLD",
                                                                "X86_BUS_LOCK",
                                                                "XEN",
                                                                "RISCV_SBI",
                                                                "RISCV_CSR",
                                                                "NOTIFY",
                                                                "LOONGARCH_IOCSR",
                                                                "MEMORY_FAULT",
                                                                "TDX",
                                                                "ARM_SEA",
                                                                "ARM_LDST64B",
                                                                "SNP_REQ_CERTS"};

// Types of KVM_EXIT_SYSTEM_EVENT.
inline constexpr std::uint32_t kKvmSystemEventShutdown = 1;
inline constexpr std::uint32_t kKvmSystemEventReset = 2;
inline constexpr std::uint32_t kKvmSystemEventCrash = 3;
inline constexpr std::uint32_t kKvmSystemEventWakeup = 4;
inline constexpr std::uint32_t kKvmSystemEventSuspend = 5;
inline constexpr std::uint32_t kKvmSystemEventSevTerm = 6;
inline constexpr std::uint32_t kKvmSystemEventTdxFatal = 7;

// Sub-errors of KVM_EXIT_INTERNAL_ERROR.
inline constexpr std::uint32_t kKvmInternalErrorEmulation = 1;
inline constexpr std::uint32_t kKvmInternalErrorSimultaneousException = 2;
inline constexpr std::uint32_t kKvmInternalErrorDeliveryEvent = 3;
inline constexpr std::uint32_t kKvmInternalErrorUnexpectedExitReason = 4;

// struct kvm_run: byte offsets of what x86-64 and aarch64 have in common.
inline constexpr std::size_t kKvmRunImmediateExit = 1;
inline constexpr std::size_t kKvmRunExitReason = 8;
inline constexpr std::size_t kKvmRunFlags = 14;
inline constexpr std::size_t kKvmRunCr8 = 16;
inline constexpr std::size_t kKvmRunPayload = 32;
inline constexpr std::size_t kKvmRunPayloadBytes = 256;
// x86-64: which register classes the last exit left behind (bit 0: general), and struct kvm_sync_regs.
inline constexpr std::size_t kKvmRunValidRegs = kKvmRunPayload + kKvmRunPayloadBytes;
inline constexpr std::size_t kKvmRunSyncRegs = kKvmRunValidRegs + 16;
inline constexpr std::uint64_t kKvmSyncX86Regs = 1;

// Payloads (the union of struct kvm_run), as both kernels lay them out.
struct KvmRunIo {
    std::uint8_t direction;  // 0: in, 1: out
    std::uint8_t size;       // bytes of one element
    std::uint16_t port;
    std::uint32_t count;
    std::uint64_t data_offset;  // from the start of struct kvm_run
};
struct KvmRunMmio {
    std::uint64_t phys_addr;
    std::uint8_t data[8];
    std::uint32_t len;
    std::uint8_t is_write;
};
struct KvmRunFailEntry {
    std::uint64_t hardware_entry_failure_reason;
    std::uint32_t cpu;
};
struct KvmRunInternalError {
    std::uint32_t suberror;
    std::uint32_t ndata;
    std::uint64_t data[16];  // of an emulation failure: flags, then (flag 1) u8 size and 15 instruction bytes
};
struct KvmRunSystemEvent {
    std::uint32_t type;
    std::uint32_t ndata;
    std::uint64_t data[16];
};
struct KvmRunDebugX86 {
    std::uint32_t exception;
    std::uint32_t pad;
    std::uint64_t pc;
    std::uint64_t dr6;
    std::uint64_t dr7;
};
struct KvmRunDebugAarch64 {
    std::uint32_t hsr;
    std::uint32_t hsr_high;
    std::uint64_t far;
};
struct KvmRunMemoryFault {
    std::uint64_t flags;  // bit 3: of private memory
    std::uint64_t gpa;
    std::uint64_t size;
};
struct KvmRunException {
    std::uint32_t exception;
    std::uint32_t error_code;
};
struct KvmRunHypercall {
    std::uint64_t nr;
    std::uint64_t args[6];
    std::uint64_t ret;
    std::uint64_t flags;  // older kernels, x86-64: u32 longmode
};
struct KvmRunMsr {
    std::uint8_t error;  // from user space: inject #GP
    std::uint8_t pad[7];
    std::uint32_t reason;
    std::uint32_t index;
    std::uint64_t data;
};
static_assert(sizeof(KvmRunIo) == 16 && sizeof(KvmRunMmio) == 24 && sizeof(KvmRunFailEntry) == 16);
static_assert(sizeof(KvmRunInternalError) == 136 && sizeof(KvmRunSystemEvent) == 136);
static_assert(sizeof(KvmRunDebugX86) == 32 && sizeof(KvmRunDebugAarch64) == 16 && sizeof(KvmRunMemoryFault) == 24);
static_assert(sizeof(KvmRunHypercall) == 72 && sizeof(KvmRunMsr) == 24);

// Requests whose structures end in a flexible array. C++ counts the empty structure that __DECLARE_FLEX_ARRAY puts
// before the array, so that <linux/kvm.h> gives C++ other sizes, other places of the array and other request numbers
// than the kernel's. These are the kernel's; the structures are a u32 count (and a u32 of padding, but for the index
// list), then the entries.
inline constexpr unsigned long kKvmGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, 0xAEU, 0x02U, 4U);
inline constexpr unsigned long kKvmGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, 0xAEU, 0x05U, 8U);
inline constexpr unsigned long kKvmGetRegList = _IOC(_IOC_READ | _IOC_WRITE, 0xAEU, 0xB0U, 8U);
inline constexpr unsigned long kKvmGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, 0xAEU, 0x88U, 8U);
inline constexpr unsigned long kKvmSetMsrs = _IOC(_IOC_WRITE, 0xAEU, 0x89U, 8U);
inline constexpr unsigned long kKvmSetCpuid2 = _IOC(_IOC_WRITE, 0xAEU, 0x90U, 8U);
inline constexpr unsigned long kKvmGetCpuid2 = _IOC(_IOC_READ | _IOC_WRITE, 0xAEU, 0x91U, 8U);
inline constexpr unsigned long kKvmGetXsave = _IOC(_IOC_READ, 0xAEU, 0xA4U, 4096U);
inline constexpr unsigned long kKvmSetXsave = _IOC(_IOC_WRITE, 0xAEU, 0xA5U, 4096U);
inline constexpr std::size_t kKvmXsaveBytes = 4096;  // at least; KVM_CAP_XSAVE2 may say more
inline constexpr unsigned long kKvmGetXsave2 = _IOC(_IOC_READ, 0xAEU, 0xCFU, 4096U);  // Linux 5.17

// Capabilities newer than the headers of Debian 12, or of some.
inline constexpr int kKvmCapDirtyLogRingAcqRel = 223;  // Linux 6.1
inline constexpr int kKvmCapMemoryFaultInfo = 232;
inline constexpr int kKvmCapMemoryAttributes = 233;
inline constexpr int kKvmCapGuestMemfd = 234;

// errno of KVM_RUN that the C library may not know: a poisoned page.
inline constexpr int kErrnoHwPoison = 133;

}  // namespace vmthaw
