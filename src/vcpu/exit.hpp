#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "kernel/kvm.hpp"

namespace vmthaw {

enum class GuestArch : std::uint8_t { x86_64, aarch64 };

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
    std::uint8_t size_bytes = 0;  // 1 to 8
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
};
struct PlainExit {};  // HLT, SHUTDOWN, ...: nothing beside the reason
struct UnknownExit {  // a reason without a decoder here: the payload as it came
    std::array<std::byte, kKvmRunPayloadBytes> bytes{};
};
// KVM said what cannot be; `problem` says which field. The bytes were not followed.
struct MalformedExit {
    const char* problem = "";
    std::array<std::byte, kKvmRunPayloadBytes> bytes{};
};
using ExitPayload = std::variant<PlainExit, IoExit, MmioExit, FailEntryExit, InternalErrorExit, SystemEventExit,
                                 DebugExit, MemoryFaultExit, ExceptionExit, HypercallExit, UnknownExit, MalformedExit>;

// What one KVM_RUN came to. `has_reason` is false when it failed: then the run bytes hold an old exit and were not
// read.
struct Exit {
    int result = 0;
    int errno_value = 0;
    bool has_reason = false;
    std::uint32_t reason = 0;
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
