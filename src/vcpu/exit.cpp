#include "vcpu/exit.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vmthaw {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint64_t kHasInstructionBytes = 1;  // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES

// JUSTIFICATION: the mapping is shared with the kernel; each structure is copied out once and only the copy is used.
template <typename Layout>
Layout take(Bytes run_bytes) noexcept {
    Layout layout{};
    std::memcpy(&layout, run_bytes.data() + kKvmRunPayload, sizeof layout);
    return layout;
}

// Payloads are made in place: the variant is large, and this is on every exit's way. What emplace() might throw it does
// not here: no payload's constructor throws, and it gives back the alternative that it has just made.
template <typename Payload, typename... Arguments>
Payload& make(ExitPayload& out, Arguments... arguments) noexcept {  // NOLINT(bugprone-exception-escape)
    return out.emplace<Payload>(arguments...);
}

template <typename Kept>
Kept& keep(Bytes run_bytes, ExitPayload& out) noexcept {
    auto& kept = make<Kept>(out);
    std::memcpy(kept.bytes.data(), run_bytes.data() + kKvmRunPayload, kept.bytes.size());
    return kept;
}

void malformed(Bytes run_bytes, const char* problem, ExitPayload& out) noexcept {
    keep<MalformedExit>(run_bytes, out).problem = problem;
}

void decode_io(Bytes run_bytes, ExitPayload& out) noexcept {
    const auto io = take<KvmRunIo>(run_bytes);
    if (io.direction > 1) {
        return malformed(run_bytes, "io.direction is neither in nor out", out);
    }
    if (io.size != 1 && io.size != 2 && io.size != 4) {
        return malformed(run_bytes, "io.size is not 1, 2 or 4", out);
    }
    if (io.count == 0) {
        return malformed(run_bytes, "io.count is 0", out);
    }
    if (io.data_offset > run_bytes.size() || std::uint64_t{io.size} * io.count > run_bytes.size() - io.data_offset) {
        return malformed(run_bytes, "io.data_offset and io.count leave the mapping", out);
    }
    out = IoExit{io.direction == 1, io.size, io.port, io.count, io.data_offset};
}

void decode_mmio(Bytes run_bytes, ExitPayload& out) noexcept {
    const auto mmio = take<KvmRunMmio>(run_bytes);
    if (mmio.len > sizeof mmio.data) {
        return malformed(run_bytes, "mmio.len is more than 8", out);
    }
    if (mmio.is_write > 1) {
        return malformed(run_bytes, "mmio.is_write is neither 0 nor 1", out);
    }
    auto& exit = make<MmioExit>(out);
    exit.guest_address = mmio.phys_addr;
    exit.size_bytes = static_cast<std::uint8_t>(mmio.len);
    exit.is_write = mmio.is_write == 1;
    std::copy_n(mmio.data, mmio.len, exit.data.begin());
}

// What KVM_CAP_SYNC_REGS left in the mapping, if anything.
void take_registers(GuestArch arch, Bytes run_bytes, InternalErrorExit& exit) noexcept {
    std::uint64_t valid = 0;
    constexpr std::size_t kEnd = kKvmRunSyncRegs + sizeof exit.registers;
    if (arch != GuestArch::x86_64 || run_bytes.size() < kEnd) {
        return;
    }
    std::memcpy(&valid, run_bytes.data() + kKvmRunValidRegs, sizeof valid);
    if ((valid & kKvmSyncX86Regs) != 0) {
        exit.has_registers = true;
        std::memcpy(exit.registers.data(), run_bytes.data() + kKvmRunSyncRegs, sizeof exit.registers);
    }
}

void decode_internal_error(GuestArch arch, Bytes run_bytes, ExitPayload& out) noexcept {
    const auto error = take<KvmRunInternalError>(run_bytes);
    if (error.ndata > std::size(error.data)) {
        return malformed(run_bytes, "internal.ndata is more than 16", out);
    }
    auto& exit = make<InternalErrorExit>(out);
    exit.suberror = error.suberror;
    exit.data_count = error.ndata;
    std::copy_n(error.data, error.ndata, exit.data.begin());
    if (error.suberror == kKvmInternalErrorEmulation && error.ndata >= 3 &&
        (error.data[0] & kHasInstructionBytes) != 0) {
        std::array<std::uint8_t, 16> field{};  // u8 size, 15 bytes
        std::memcpy(field.data(), &error.data[1], field.size());
        exit.instruction_size = std::min<std::uint8_t>(field[0], 15);
        std::copy_n(field.begin() + 1, exit.instruction_size, exit.instruction.begin());
    }
    take_registers(arch, run_bytes, exit);
}

void decode_system_event(Bytes run_bytes, ExitPayload& out) noexcept {
    const auto event = take<KvmRunSystemEvent>(run_bytes);
    if (event.ndata > std::size(event.data)) {
        return malformed(run_bytes, "system_event.ndata is more than 16", out);
    }
    auto& exit = make<SystemEventExit>(out);
    exit.type = event.type;
    exit.data_count = event.ndata;
    std::copy_n(event.data, event.ndata, exit.data.begin());
}

void decode_debug(GuestArch arch, Bytes run_bytes, ExitPayload& out) noexcept {
    if (arch == GuestArch::x86_64) {
        const auto debug = take<KvmRunDebugX86>(run_bytes);
        out = DebugExit{debug.exception, debug.pc, debug.dr6, debug.dr7, 0, 0};
        return;
    }
    const auto debug = take<KvmRunDebugAarch64>(run_bytes);
    out = DebugExit{0, 0, 0, 0, std::uint64_t{debug.hsr_high} << 32U | debug.hsr, debug.far};
}

void decode_hypercall(Bytes run_bytes, ExitPayload& out) noexcept {
    const auto call = take<KvmRunHypercall>(run_bytes);
    auto& exit = make<HypercallExit>(out);
    exit.number = call.nr;
    std::copy_n(call.args, exit.arguments.size(), exit.arguments.begin());
    exit.result = call.ret;
    exit.flags = call.flags;
}

void decode_msr(std::uint32_t reason, Bytes run_bytes, ExitPayload& out) noexcept {
    const auto msr = take<KvmRunMsr>(run_bytes);
    out = MsrExit{reason == kKvmExitX86Wrmsr, msr.index, msr.data, msr.reason};
}

// Reasons whose payload is a list of numbers, and those that nobody knows.
void decode_other(std::uint32_t reason, Bytes run_bytes, ExitPayload& out) noexcept {
    const auto fields = exit_fields(reason, run_bytes);
    if (!fields) {
        keep<UnknownExit>(run_bytes, out);
    } else if (fields->empty()) {
        make<PlainExit>(out);
    } else {
        make<FieldsExit>(out, *fields, run_bytes);
    }
}

void decode_payload(GuestArch arch, std::uint32_t reason, Bytes run_bytes, ExitPayload& out) noexcept {
    // Nearly all exits are these two: asked for first, a table of jumps is neither fetched nor guessed wrong.
    if (reason == kKvmExitIo) {
        return decode_io(run_bytes, out);
    }
    if (reason == kKvmExitMmio) {
        return decode_mmio(run_bytes, out);
    }
    switch (reason) {
        case kKvmExitHlt:
        case kKvmExitShutdown:
            make<PlainExit>(out);
            return;
        case kKvmExitFailEntry: {
            const auto fail = take<KvmRunFailEntry>(run_bytes);
            out = FailEntryExit{fail.hardware_entry_failure_reason, fail.cpu};
            return;
        }
        case kKvmExitInternalError:
            return decode_internal_error(arch, run_bytes, out);
        case kKvmExitSystemEvent:
            return decode_system_event(run_bytes, out);
        case kKvmExitDebug:
            return decode_debug(arch, run_bytes, out);
        case kKvmExitMemoryFault: {
            const auto fault = take<KvmRunMemoryFault>(run_bytes);
            out = MemoryFaultExit{fault.flags, fault.gpa, fault.size};
            return;
        }
        case kKvmExitException: {
            const auto exception = take<KvmRunException>(run_bytes);
            out = ExceptionExit{exception.exception, exception.error_code};
            return;
        }
        case kKvmExitHypercall:
            return decode_hypercall(run_bytes, out);
        case kKvmExitX86Rdmsr:
        case kKvmExitX86Wrmsr:
            return decode_msr(reason, run_bytes, out);
        default:
            return decode_other(reason, run_bytes, out);
    }
}

}  // namespace

std::uint64_t FieldsExit::value(const ExitField& field, std::size_t index) const noexcept {
    std::uint64_t number = 0;
    const std::size_t place = field.offset + index * field.size_bytes;
    if (index < field.count && place + field.size_bytes <= bytes.size()) {
        std::memcpy(&number, bytes.data() + place, field.size_bytes);
    }
    return number;
}

bool Exit::is_interrupted() const noexcept { return result < 0 && (errno_value == EINTR || errno_value == EAGAIN); }

[[gnu::hot]] Exit decode_exit(GuestArch arch, int result, int errno_value, Bytes run_bytes) noexcept {
    Exit exit;
    exit.result = result;
    exit.errno_value = result < 0 ? errno_value : 0;
    const bool is_whole = run_bytes.size() >= kKvmRunPayload + kKvmRunPayloadBytes;
    std::uint32_t reason = 0;
    if (is_whole) {
        std::memcpy(&reason, run_bytes.data() + kKvmRunExitReason, sizeof reason);
    }
    // An error leaves the reason of an earlier exit behind; only this one comes with an error.
    const bool is_memory_fault =
        reason == kKvmExitMemoryFault && (errno_value == EFAULT || errno_value == kErrnoHwPoison);
    if (result < 0 && !is_memory_fault) {
        return exit;
    }
    if (!is_whole) {
        exit.payload = MalformedExit{"the mapping is shorter than struct kvm_run", {}};
        return exit;
    }
    exit.has_reason = true;
    exit.reason = reason;
    decode_payload(arch, reason, run_bytes, exit.payload);
    return exit;
}

}  // namespace vmthaw
