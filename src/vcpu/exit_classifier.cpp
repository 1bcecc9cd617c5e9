#include "vcpu/exit_classifier.hpp"

#include <cstddef>

namespace vmthaw {
namespace {

constexpr ExitAction kNone{ExitActionKind::none, {}};
constexpr ExitAction kContinue{ExitActionKind::continue_, {}};
constexpr ExitAction kShutdown{ExitActionKind::shutdown, {}};

ExitAction fatal(std::uint64_t reason) noexcept { return {ExitActionKind::fatal, reason}; }

// The lenient profile looks at the first byte of whatever went to the port. The strict one at every element, and only
// where an element lies wholly within the port.
bool is_i8042_reset(ExitProfile profile, const IoExit& io, std::span<const std::byte> data) noexcept {
    if (!io.is_write || io.port != kI8042CommandPort || data.empty()) {
        return false;
    }
    if (profile == ExitProfile::lenient) {
        return data.front() == std::byte{kI8042Reset};
    }
    if (io.size_bytes != 1) {
        return false;
    }
    for (const std::byte element : data) {
        if (element == std::byte{kI8042Reset}) {
            return true;
        }
    }
    return false;
}

ExitAction system_event_action(ExitProfile profile, const SystemEventExit& event) noexcept {
    switch (event.type) {
        case kKvmSystemEventShutdown:
        case kKvmSystemEventReset:
            return kShutdown;
        case kKvmSystemEventCrash:
        case kKvmSystemEventSevTerm:
        case kKvmSystemEventTdxFatal:
            return profile == ExitProfile::strict ? fatal(event.type) : kContinue;
        default:
            return kContinue;
    }
}

ExitAction error_action(ExitProfile profile, const Exit& exit) noexcept {
    if (exit.is_interrupted()) {
        return kContinue;
    }
    return profile == ExitProfile::strict ? fatal(static_cast<std::uint64_t>(exit.errno_value)) : kNone;
}

// What the table leaves to the run loop. A number that nobody knows would come again and again.
ExitAction other_action(ExitProfile profile, const Exit& exit) noexcept {
    if (profile == ExitProfile::lenient) {
        return kNone;
    }
    if (const auto* fields = std::get_if<FieldsExit>(&exit.payload);
        fields != nullptr && exit.reason == kKvmExitUnknown) {
        return fatal(fields->value(fields->fields.front()));
    }
    return std::holds_alternative<UnknownExit>(exit.payload) ? fatal(exit.reason) : kNone;
}

}  // namespace

[[gnu::hot]] ExitAction exit_action(ExitProfile profile, GuestArch arch, const Exit& exit,
                                    std::span<const std::byte> io_data) noexcept {
    if (std::holds_alternative<MalformedExit>(exit.payload)) {
        return exit.has_reason ? fatal(exit.reason) : ExitAction{ExitActionKind::fatal, {}};
    }
    if (exit.result < 0) {
        return error_action(profile, exit);
    }
    if (exit.reason == kKvmExitIo) {  // before the others, as decode_exit() does
        const auto* io = std::get_if<IoExit>(&exit.payload);
        if (arch != GuestArch::x86_64 || io == nullptr) {
            return kNone;
        }
        return is_i8042_reset(profile, *io, io_data) ? kShutdown : kContinue;
    }
    if (exit.reason == kKvmExitMmio) {
        return kContinue;
    }
    switch (exit.reason) {
        case kKvmExitShutdown:
            return kShutdown;
        case kKvmExitSystemEvent: {
            const auto* event = std::get_if<SystemEventExit>(&exit.payload);
            return event != nullptr ? system_event_action(profile, *event) : kNone;
        }
        case kKvmExitFailEntry: {
            const auto* fail = std::get_if<FailEntryExit>(&exit.payload);
            return fail != nullptr ? fatal(fail->hardware_reason) : kNone;
        }
        case kKvmExitInternalError: {
            const auto* error = std::get_if<InternalErrorExit>(&exit.payload);
            return profile == ExitProfile::strict && error != nullptr ? fatal(error->suberror)
                                                                      : ExitAction{ExitActionKind::fatal, {}};
        }
        default:
            return other_action(profile, exit);
    }
}

[[gnu::hot]] std::span<const std::byte> io_data_of(const Exit& exit, std::span<const std::byte> run_bytes) noexcept {
    const auto* io = std::get_if<IoExit>(&exit.payload);
    if (io == nullptr || io->data_offset > run_bytes.size() || io->data_bytes() > run_bytes.size() - io->data_offset) {
        return {};
    }
    return run_bytes.subspan(io->data_offset, io->data_bytes());
}

[[gnu::hot]] Exit classify_exit(ExitProfile profile, GuestArch arch, int result, int errno_value,
                                std::span<const std::byte> run_bytes) noexcept {
    Exit exit = decode_exit(arch, result, errno_value, run_bytes);
    const ExitAction action = exit_action(profile, arch, exit, io_data_of(exit, run_bytes));
    // By parts: loaded as a whole right after its parts were stored, the load would wait for the stores to retire.
    exit.action.kind = action.kind;
    if (action.reason) {
        exit.action.reason = *action.reason;
    }
    return exit;
}

}  // namespace vmthaw
