#include "vcpu/exit.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

namespace vmthaw {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint32_t kEmulationFailure = 1;     // KVM_INTERNAL_ERROR_EMULATION
constexpr std::uint64_t kHasInstructionBytes = 1;  // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES

// JUSTIFICATION: the mapping is shared with the kernel; each structure is copied out once and only the copy is used.
template <typename Layout>
Layout take(Bytes run_bytes) noexcept {
    Layout layout{};
    std::memcpy(&layout, run_bytes.data() + kKvmRunPayload, sizeof layout);
    return layout;
}

template <typename Kept>
Kept keep(Bytes run_bytes) noexcept {
    Kept kept{};
    std::memcpy(kept.bytes.data(), run_bytes.data() + kKvmRunPayload, kept.bytes.size());
    return kept;
}

MalformedExit malformed(Bytes run_bytes, const char* problem) noexcept {
    auto exit = keep<MalformedExit>(run_bytes);
    exit.problem = problem;
    return exit;
}

ExitPayload decode_io(Bytes run_bytes) noexcept {
    const auto io = take<KvmRunIo>(run_bytes);
    if (io.direction > 1) {
        return malformed(run_bytes, "io.direction is neither in nor out");
    }
    if (io.size != 1 && io.size != 2 && io.size != 4) {
        return malformed(run_bytes, "io.size is not 1, 2 or 4");
    }
    if (io.count == 0) {
        return malformed(run_bytes, "io.count is 0");
    }
    if (io.data_offset > run_bytes.size() || std::uint64_t{io.size} * io.count > run_bytes.size() - io.data_offset) {
        return malformed(run_bytes, "io.data_offset and io.count leave the mapping");
    }
    return IoExit{io.direction == 1, io.size, io.port, io.count, io.data_offset};
}

ExitPayload decode_mmio(Bytes run_bytes) noexcept {
    const auto mmio = take<KvmRunMmio>(run_bytes);
    if (mmio.len == 0 || mmio.len > sizeof mmio.data) {
        return malformed(run_bytes, "mmio.len is not 1 to 8");
    }
    if (mmio.is_write > 1) {
        return malformed(run_bytes, "mmio.is_write is neither 0 nor 1");
    }
    MmioExit exit{mmio.phys_addr, {}, static_cast<std::uint8_t>(mmio.len), mmio.is_write == 1};
    std::copy_n(mmio.data, mmio.len, exit.data.begin());
    return exit;
}

ExitPayload decode_internal_error(Bytes run_bytes) noexcept {
    const auto error = take<KvmRunInternalError>(run_bytes);
    if (error.ndata > std::size(error.data)) {
        return malformed(run_bytes, "internal.ndata is more than 16");
    }
    InternalErrorExit exit{error.suberror, error.ndata, {}, 0, {}};
    std::copy_n(error.data, error.ndata, exit.data.begin());
    if (error.suberror == kEmulationFailure && error.ndata >= 3 && (error.data[0] & kHasInstructionBytes) != 0) {
        std::array<std::uint8_t, 16> field{};  // u8 size, 15 bytes
        std::memcpy(field.data(), &error.data[1], field.size());
        exit.instruction_size = std::min<std::uint8_t>(field[0], 15);
        std::copy_n(field.begin() + 1, exit.instruction_size, exit.instruction.begin());
    }
    return exit;
}

ExitPayload decode_system_event(Bytes run_bytes) noexcept {
    const auto event = take<KvmRunSystemEvent>(run_bytes);
    if (event.ndata > std::size(event.data)) {
        return malformed(run_bytes, "system_event.ndata is more than 16");
    }
    SystemEventExit exit{event.type, event.ndata, {}};
    std::copy_n(event.data, event.ndata, exit.data.begin());
    return exit;
}

ExitPayload decode_debug(GuestArch arch, Bytes run_bytes) noexcept {
    if (arch == GuestArch::x86_64) {
        const auto debug = take<KvmRunDebugX86>(run_bytes);
        return DebugExit{debug.exception, debug.pc, debug.dr6, debug.dr7, 0, 0};
    }
    const auto debug = take<KvmRunDebugAarch64>(run_bytes);
    return DebugExit{0, 0, 0, 0, std::uint64_t{debug.hsr_high} << 32U | debug.hsr, debug.far};
}

ExitPayload decode_payload(GuestArch arch, std::uint32_t reason, Bytes run_bytes) noexcept {
    switch (reason) {
        case kKvmExitIo:
            return decode_io(run_bytes);
        case kKvmExitMmio:
            return decode_mmio(run_bytes);
        case kKvmExitHlt:
        case kKvmExitShutdown:
            return PlainExit{};
        case kKvmExitFailEntry: {
            const auto fail = take<KvmRunFailEntry>(run_bytes);
            return FailEntryExit{fail.hardware_entry_failure_reason, fail.cpu};
        }
        case kKvmExitInternalError:
            return decode_internal_error(run_bytes);
        case kKvmExitSystemEvent:
            return decode_system_event(run_bytes);
        case kKvmExitDebug:
            return decode_debug(arch, run_bytes);
        case kKvmExitMemoryFault: {
            const auto fault = take<KvmRunMemoryFault>(run_bytes);
            return MemoryFaultExit{fault.flags, fault.gpa, fault.size};
        }
        case kKvmExitException: {
            const auto exception = take<KvmRunException>(run_bytes);
            return ExceptionExit{exception.exception, exception.error_code};
        }
        case kKvmExitHypercall: {
            const auto call = take<KvmRunHypercall>(run_bytes);
            HypercallExit exit{call.nr, {}};
            std::copy_n(call.args, exit.arguments.size(), exit.arguments.begin());
            return exit;
        }
        default:
            return keep<UnknownExit>(run_bytes);
    }
}

template <typename... Values>
std::string format(const char* pattern, Values... values) {
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), pattern, values...);
    return text.data();
}

struct Describer {
    std::string operator()(const PlainExit&) const { return ""; }
    std::string operator()(const IoExit& io) const {
        return format(" %s port 0x%x, %u x %u bytes", io.is_write ? "out" : "in", unsigned{io.port}, io.count,
                      unsigned{io.size_bytes});
    }
    std::string operator()(const MmioExit& mmio) const {
        return format(" %s of %u bytes at guest 0x%llx", mmio.is_write ? "write" : "read", unsigned{mmio.size_bytes},
                      static_cast<unsigned long long>(mmio.guest_address));
    }
    std::string operator()(const FailEntryExit& fail) const {
        return format(": hardware reason 0x%llx on processor %u", static_cast<unsigned long long>(fail.hardware_reason),
                      fail.cpu);
    }
    std::string operator()(const InternalErrorExit& error) const {
        std::string text = format(": sub-error %u", error.suberror);
        for (std::uint32_t i = 0; i < error.instruction_size; ++i) {
            text += format(i == 0 ? ", instruction %02x" : " %02x", unsigned{error.instruction[i]});
        }
        return text;
    }
    std::string operator()(const SystemEventExit& event) const { return format(": type %u", event.type); }
    std::string operator()(const DebugExit& debug) const {
        return format(": exception %u, dr6 0x%llx, syndrome 0x%llx", debug.exception,
                      static_cast<unsigned long long>(debug.dr6), static_cast<unsigned long long>(debug.syndrome));
    }
    std::string operator()(const MemoryFaultExit& fault) const {
        return format(" at guest 0x%llx, %llu bytes, flags 0x%llx",
                      static_cast<unsigned long long>(fault.guest_address),
                      static_cast<unsigned long long>(fault.size_bytes), static_cast<unsigned long long>(fault.flags));
    }
    std::string operator()(const ExceptionExit& exception) const {
        return format(": exception %u, error code 0x%x", exception.exception, exception.error_code);
    }
    std::string operator()(const HypercallExit& call) const {
        return format(": number %llu", static_cast<unsigned long long>(call.number));
    }
    std::string operator()(const UnknownExit&) const { return " (not decoded)"; }
    std::string operator()(const MalformedExit& exit) const { return std::string(" is malformed: ") + exit.problem; }
};

}  // namespace

std::string_view exit_reason_name(std::uint32_t reason) noexcept {
    return reason <= kKvmExitLast ? std::string_view(kKvmExitNames[reason]) : std::string_view();
}

bool Exit::is_interrupted() const noexcept { return result < 0 && (errno_value == EINTR || errno_value == EAGAIN); }

std::string Exit::name() const {
    if (!has_reason) {
        return "error";
    }
    const std::string_view known = exit_reason_name(reason);
    return known.empty() ? "reason " + std::to_string(reason) : std::string(known);
}

std::string Exit::describe() const {
    std::string text = name() + std::visit(Describer{}, payload);
    if (result < 0) {
        text += " (KVM_RUN: " + std::generic_category().message(errno_value) + ")";
    }
    return text;
}

Exit decode_exit(GuestArch arch, int result, int errno_value, Bytes run_bytes) noexcept {
    Exit exit;
    exit.result = result;
    exit.errno_value = result < 0 ? errno_value : 0;
    if (run_bytes.size() < kKvmRunPayload + kKvmRunPayloadBytes) {
        exit.payload = MalformedExit{"the mapping is shorter than struct kvm_run", {}};
        return exit;
    }
    std::uint32_t reason = 0;
    std::memcpy(&reason, run_bytes.data() + kKvmRunExitReason, sizeof reason);
    // An error leaves the reason of an earlier exit behind; only this one comes with an error.
    const bool is_memory_fault =
        reason == kKvmExitMemoryFault && (errno_value == EFAULT || errno_value == kErrnoHwPoison);
    if (result < 0 && !is_memory_fault) {
        return exit;
    }
    exit.has_reason = true;
    exit.reason = reason;
    exit.payload = decode_payload(arch, reason, run_bytes);
    return exit;
}

}  // namespace vmthaw
