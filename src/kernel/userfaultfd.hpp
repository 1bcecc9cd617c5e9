#pragma once

// The userfaultfd interface of Linux (include/uapi/linux/userfaultfd.h, up to 6.18), written out because distribution
// headers are older than the kernels they run on. Nothing here is a promise that the running kernel has it: probe.

#include <linux/ioctl.h>

#include <cstdint>

namespace vmthaw {

// UFFDIO_API
struct UffdApi {
    std::uint64_t api;
    std::uint64_t features;
    std::uint64_t ioctls;
};
struct UffdRange {
    std::uint64_t start;
    std::uint64_t len;
};
struct UffdRegister {
    UffdRange range;
    std::uint64_t mode;
    std::uint64_t ioctls;
};
struct UffdCopy {
    std::uint64_t dst;
    std::uint64_t src;
    std::uint64_t len;
    std::uint64_t mode;
    std::int64_t copy;
};
// ZEROPAGE, CONTINUE and POISON share one shape: range, mode, signed progress.
struct UffdFill {
    UffdRange range;
    std::uint64_t mode;
    std::int64_t done;
};
struct UffdWriteProtect {
    UffdRange range;
    std::uint64_t mode;
};
// MOVE has the shape of COPY.
using UffdMove = UffdCopy;

// struct uffd_msg: 32 bytes, packed.
struct [[gnu::packed]] UffdMessage {
    std::uint8_t event;
    std::uint8_t reserved1;
    std::uint16_t reserved2;
    std::uint32_t reserved3;
    union [[gnu::packed]] {
        struct [[gnu::packed]] {
            std::uint64_t flags;
            std::uint64_t address;
            std::uint32_t tid;
        } pagefault;
        struct [[gnu::packed]] {
            std::uint32_t ufd;
        } fork;
        struct [[gnu::packed]] {
            std::uint64_t from;
            std::uint64_t to;
            std::uint64_t len;
        } remap;
        struct [[gnu::packed]] {
            std::uint64_t start;
            std::uint64_t end;
        } remove;  // UNMAP has the same shape
        std::uint64_t raw[3];
    } arg;
};
static_assert(sizeof(UffdMessage) == 32);

inline constexpr std::uint64_t kUffdApi = 0xAA;
inline constexpr unsigned kUffdUserModeOnly =
    1;  // flag of userfaultfd(2); useless for guests: KVM faults in kernel mode

inline constexpr std::uint8_t kEventPagefault = 0x12;
inline constexpr std::uint8_t kEventFork = 0x13;
inline constexpr std::uint8_t kEventRemap = 0x14;
inline constexpr std::uint8_t kEventRemove = 0x15;
inline constexpr std::uint8_t kEventUnmap = 0x16;

inline constexpr std::uint64_t kFaultWrite = 1;
inline constexpr std::uint64_t kFaultWriteProtect = 2;
inline constexpr std::uint64_t kFaultMinor = 4;

inline constexpr std::uint64_t kRegisterMissing = 1;
inline constexpr std::uint64_t kRegisterWriteProtect = 2;
inline constexpr std::uint64_t kRegisterMinor = 4;

inline constexpr std::uint64_t kModeDontWake = 1;          // COPY, ZEROPAGE, CONTINUE, POISON, MOVE
inline constexpr std::uint64_t kModeCopyWriteProtect = 2;  // COPY and CONTINUE
inline constexpr std::uint64_t kModeMoveAllowSourceHoles = 2;
inline constexpr std::uint64_t kModeWriteProtect = 1;  // WRITEPROTECT: set; 0: clear
inline constexpr std::uint64_t kModeWriteProtectDontWake = 2;

// Bits of UffdRegister::ioctls: one per range call, by its number.
inline constexpr std::uint64_t kRangeWake = 1U << 2U;
inline constexpr std::uint64_t kRangeCopy = 1U << 3U;
inline constexpr std::uint64_t kRangeZeropage = 1U << 4U;
inline constexpr std::uint64_t kRangeMove = 1U << 5U;
inline constexpr std::uint64_t kRangeWriteProtect = 1U << 6U;
inline constexpr std::uint64_t kRangeContinue = 1U << 7U;
inline constexpr std::uint64_t kRangePoison = 1U << 8U;

inline constexpr unsigned long kUffdioApi = _IOWR(0xAA, 0x3F, UffdApi);
inline constexpr unsigned long kUffdioRegister = _IOWR(0xAA, 0x00, UffdRegister);
inline constexpr unsigned long kUffdioUnregister = _IOR(0xAA, 0x01, UffdRange);
inline constexpr unsigned long kUffdioWake = _IOR(0xAA, 0x02, UffdRange);
inline constexpr unsigned long kUffdioCopy = _IOWR(0xAA, 0x03, UffdCopy);
inline constexpr unsigned long kUffdioZeropage = _IOWR(0xAA, 0x04, UffdFill);
inline constexpr unsigned long kUffdioMove = _IOWR(0xAA, 0x05, UffdMove);
inline constexpr unsigned long kUffdioWriteProtect = _IOWR(0xAA, 0x06, UffdWriteProtect);
inline constexpr unsigned long kUffdioContinue = _IOWR(0xAA, 0x07, UffdFill);
inline constexpr unsigned long kUffdioPoison = _IOWR(0xAA, 0x08, UffdFill);
inline constexpr unsigned long kUserfaultfdIocNew = _IO(0xAA, 0x00);  // on /dev/userfaultfd

}  // namespace vmthaw
