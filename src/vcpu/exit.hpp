#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "kernel/kvm.hpp"
#include "vcpu/exit_layout.hpp"

namespace vmthaw {

enum class GuestArch : std::uint8_t { x86_64, aarch64 };
// Of the guests that KVM can run here.
inline constexpr GuestArch kHostArch =
#if defined(__aarch64__)
    GuestArch::aarch64;
#else
    GuestArch::x86_64;
#endif

// What is to be done about an exit: nothing that is known here (the run loop decides), run on, end the VM in order, or
// end it in disorder.
enum class ExitActionKind : std::uint8_t { none, continue_, shutdown, fatal };
struct ExitAction {
    ExitActionKind kind = ExitActionKind::none;
    // Of fatal: FAIL_ENTRY's hardware reason, INTERNAL_ERROR's sub-error, SYSTEM_EVENT's type, UNKNOWN's hardware
    // reason, the errno of a KVM_RUN that failed, else the exit's number; or nothing.
    std::optional<std::uint64_t> reason;

    // "continue", "fatal(5)".
    [[nodiscard]] std::string describe() const;
    bool operator==(const ExitAction&) const = default;
};

// Payloads of exits. The names follow struct kvm_run; all are plain values.
struct IoExit {
    bool is_write = false;
    std::uint8_t size_bytes = 0;  // of one element
    std::uint16_t port = 0;
    std::uint32_t count = 0;        // of elements
    std::uint64_t data_offset = 0;  // of the elements in the run bytes; checked to lie inside
    [[nodiscard]] std::uint64_t data_bytes() const noexcept { return std::uint64_t{size_bytes} * count; }
};
struct MmioExit {
    std::uint64_t guest_address = 0;
    std::array<std::uint8_t, 8> data{};
    std::uint8_t size_bytes = 0;  // 0 to 8
    bool is_write = false;
};
struct FailEntryExit {
    std::uint64_t hardware_reason = 0;
    std::uint32_t cpu = 0;
};
struct InternalErrorExit {
    std::uint32_t suberror = 0;
    std::uint32_t data_count = 0;  // of the words below
    std::array<std::uint64_t, 16> data{};
    std::uint8_t instruction_size = 0;  // of an emulation failure that says so, else 0
    std::array<std::uint8_t, 15> instruction{};
    // RAX RBX RCX RDX RSI RDI RSP RBP R8 to R15 RIP RFLAGS, where struct kvm_run has them (KVM_CAP_SYNC_REGS) or
    // somebody who has the vCPU filled them in.
    bool has_registers = false;
    std::array<std::uint64_t, 18> registers{};
};
struct SystemEventExit {
    std::uint32_t type = 0;
    std::uint32_t data_count = 0;
    std::array<std::uint64_t, 16> data{};
};
struct DebugExit {  // the fields of the other architecture are 0
    std::uint32_t exception = 0;
    std::uint64_t instruction_pointer = 0, dr6 = 0, dr7 = 0;
    std::uint64_t syndrome = 0, fault_address = 0;
};
struct MemoryFaultExit {
    std::uint64_t flags = 0, guest_address = 0, size_bytes = 0;
};
struct ExceptionExit {
    std::uint32_t exception = 0, error_code = 0;
};
struct HypercallExit {
    std::uint64_t number = 0;
    std::array<std::uint64_t, 6> arguments{};
    std::uint64_t result = 0;
    std::uint64_t flags = 0;  // x86-64: bit 0 long mode; aarch64: bit 0 SMC, bit 1 a 16-bit instruction
};
struct MsrExit {
    bool is_write = false;
    std::uint32_t index = 0;
    std::uint64_t value = 0;   // of a write
    std::uint32_t reason = 0;  // bit 0: invalid, 1: unknown, 2: filtered
};
struct FieldsExit {  // numbers by name, at their places in the first bytes of struct kvm_run
    // `run_bytes` has at least so many. They are not cleared first, which would cost as much as the copy.
    FieldsExit(std::span<const ExitField> exit_fields, std::span<const std::byte> run_bytes) noexcept
        : fields(exit_fields) {
        std::memcpy(bytes.data(), run_bytes.data(), bytes.size());
    }
    std::span<const ExitField> fields;
    std::array<std::byte, kKvmRunPayload + kKvmRunPayloadBytes> bytes;
    [[nodiscard]] std::uint64_t value(const ExitField& field, std::size_t index = 0) const noexcept;
};
struct PlainExit {  // HLT, SHUTDOWN, ...: nothing beside the reason
    // Not defaulted: it would be a constant expression, and an Exit be filled with a constant's zeros, its largest
    // payload's hundreds of bytes, before anything is decoded into it.
    PlainExit() noexcept {}  // NOLINT(modernize-use-equals-default)
};
struct UnknownExit {  // a number beyond what is known: the payload as it came
    std::array<std::byte, kKvmRunPayloadBytes> bytes{};
};
// KVM said what cannot be; `problem` says which field. The bytes were not followed.
struct MalformedExit {
    const char* problem = "";
    std::array<std::byte, kKvmRunPayloadBytes> bytes{};
};
using ExitPayload =
    std::variant<PlainExit, IoExit, MmioExit, FailEntryExit, InternalErrorExit, SystemEventExit, DebugExit,
                 MemoryFaultExit, ExceptionExit, HypercallExit, MsrExit, FieldsExit, UnknownExit, MalformedExit>;

// What one KVM_RUN came to. `has_reason` is false when it failed: then the run bytes hold an old exit and were not
// read.
struct Exit {
    int result = 0;
    int errno_value = 0;
    bool has_reason = false;
    std::uint32_t reason = 0;
    ExitAction action;  // none unless classify_exit() made it
    ExitPayload payload;

    // EINTR or EAGAIN: run again.
    [[nodiscard]] bool is_interrupted() const noexcept;
    // "IO", ..., "reason 77" beyond what is known, "error" when there is no reason.
    [[nodiscard]] std::string name() const;
    // A line for messages: "IO out port 0x3f8, 1 x 1 bytes".
    [[nodiscard]] std::string describe() const;
};

// The name of a reason, or empty.
[[nodiscard]] std::string_view exit_reason_name(std::uint32_t reason) noexcept;

// Decodes what KVM_RUN returned, its errno and the bytes of the vCPU's mapping. Pure: no KVM, either architecture on
// any host, every length and offset checked before it is used.
[[nodiscard]] Exit decode_exit(GuestArch arch, int result, int errno_value,
                               std::span<const std::byte> run_bytes) noexcept;

}  // namespace vmthaw
