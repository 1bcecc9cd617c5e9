#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>

#include "vcpu/exit.hpp"

// Exits as people read them.
namespace vmthaw {
namespace {

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
        if (error.has_registers) {
            text += format(", rip 0x%llx", static_cast<unsigned long long>(error.registers[16]));
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
    std::string operator()(const MsrExit& msr) const {
        return format(": register 0x%x", msr.index) +
               (msr.is_write ? format(" := 0x%llx", static_cast<unsigned long long>(msr.value)) : "");
    }
    std::string operator()(const FieldsExit& exit) const {
        std::string text;
        for (const ExitField& field : exit.fields.first(std::min<std::size_t>(exit.fields.size(), 4))) {
            text += format("%s %s 0x%llx", text.empty() ? ":" : ",", field.name,
                           static_cast<unsigned long long>(exit.value(field)));
        }
        return text;
    }
    std::string operator()(const UnknownExit&) const { return " (not decoded)"; }
    std::string operator()(const MalformedExit& exit) const { return std::string(" is malformed: ") + exit.problem; }
};

}  // namespace

std::string_view exit_reason_name(std::uint32_t reason) noexcept {
    return reason <= kKvmExitLast ? std::string_view(kKvmExitNames[reason]) : std::string_view();
}

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

std::string ExitAction::describe() const {
    switch (kind) {
        case ExitActionKind::none:
            return "none";
        case ExitActionKind::continue_:
            return "continue";
        case ExitActionKind::shutdown:
            return "shutdown";
        case ExitActionKind::fatal:
            break;
    }
    return reason ? "fatal(" + std::to_string(*reason) + ")" : "fatal";
}

}  // namespace vmthaw
