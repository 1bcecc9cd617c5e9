// GIL and locking: pure values; everything runs with the GIL held.
#include "bindings/exit.hpp"

#include <pybind11/stl.h>

#include <array>
#include <utility>
#include <vector>

#include "bindings/buffer_view.hpp"

namespace vmthaw::bindings {
namespace {

py::bytes bytes_of(const void* data, std::size_t size) { return {static_cast<const char*>(data), size}; }

template <typename Words>
py::list first_words(const Words& words, std::uint32_t count) {
    py::list list;
    for (std::uint32_t i = 0; i < count && i < words.size(); ++i) {
        list.append(words[i]);
    }
    return list;
}

py::object registers_of(const InternalErrorExit& error) {
    constexpr std::array kNames = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8",
                                   "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"};
    static_assert(kNames.size() == std::tuple_size_v<decltype(error.registers)>);
    if (!error.has_registers) {
        return py::none();
    }
    py::dict registers;
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        registers[kNames[i]] = error.registers[i];
    }
    return registers;
}

struct ToFields {
    const ExitObject& self;
    py::dict& out;

    void operator()(const PlainExit& /*exit*/) const {}
    void operator()(const IoExit& io) const {
        out["is_write"] = io.is_write;
        out["port"] = io.port;
        out["size_bytes"] = io.size_bytes;
        out["count"] = io.count;
        out["data_offset"] = io.data_offset;
        out["data"] = py::bytes(self.data);
    }
    void operator()(const MmioExit& mmio) const {
        out["is_write"] = mmio.is_write;
        out["guest_address"] = mmio.guest_address;
        out["size_bytes"] = mmio.size_bytes;
        out["data"] = bytes_of(mmio.data.data(), mmio.size_bytes);
    }
    void operator()(const FailEntryExit& fail) const {
        out["hardware_reason"] = fail.hardware_reason;
        out["cpu"] = fail.cpu;
    }
    void operator()(const InternalErrorExit& error) const {
        out["suberror"] = error.suberror;
        out["data"] = first_words(error.data, error.data_count);
        out["instruction"] = bytes_of(error.instruction.data(), error.instruction_size);
        out["registers"] = registers_of(error);
    }
    void operator()(const SystemEventExit& event) const {
        out["type"] = event.type;
        out["data"] = first_words(event.data, event.data_count);
    }
    void operator()(const DebugExit& debug) const {
        out["exception"] = debug.exception;
        out["instruction_pointer"] = debug.instruction_pointer;
        out["dr6"] = debug.dr6;
        out["dr7"] = debug.dr7;
        out["syndrome"] = debug.syndrome;
        out["fault_address"] = debug.fault_address;
    }
    void operator()(const MemoryFaultExit& fault) const {
        out["flags"] = fault.flags;
        out["guest_address"] = fault.guest_address;
        out["size_bytes"] = fault.size_bytes;
    }
    void operator()(const ExceptionExit& exception) const {
        out["exception"] = exception.exception;
        out["error_code"] = exception.error_code;
    }
    void operator()(const HypercallExit& call) const {
        out["number"] = call.number;
        out["arguments"] = first_words(call.arguments, 6);
        out["result"] = call.result;
        out["flags"] = call.flags;
    }
    void operator()(const MsrExit& msr) const {
        out["is_write"] = msr.is_write;
        out["index"] = msr.index;
        out["value"] = msr.value;
        out["reason"] = msr.reason;
    }
    void operator()(const FieldsExit& numbers) const {
        for (const ExitField& field : numbers.fields) {
            if (field.count == 1) {
                out[field.name] = numbers.value(field);
                continue;
            }
            py::list list;
            for (std::size_t i = 0; i < field.count; ++i) {
                list.append(numbers.value(field, i));
            }
            out[field.name] = list;
        }
    }
    void operator()(const UnknownExit& unknown) const {
        out["bytes"] = bytes_of(unknown.bytes.data(), unknown.bytes.size());
    }
    void operator()(const MalformedExit& malformed) const {
        out["problem"] = malformed.problem;
        out["bytes"] = bytes_of(malformed.bytes.data(), malformed.bytes.size());
    }
};

py::dict fields_of(const ExitObject& self) {
    py::dict fields;
    std::visit(ToFields{self, fields}, self.exit.payload);
    return fields;
}

}  // namespace

ExitObject keep_exit(const Exit& exit, std::span<const std::byte> run_bytes) {
    ExitObject object{exit, {}, {}};
    const auto data = io_data_of(exit, run_bytes);
    object.data.assign(reinterpret_cast<const char*>(data.data()), data.size());
    return object;
}

ExitObject keep_exit(const Exit& exit, Vcpu& vcpu, py::object owner) {
    ExitObject object = keep_exit(exit, vcpu.run_bytes());
    object.owner = std::move(owner);
    object.vcpu = &vcpu;
    object.run = vcpu.runs();
    return object;
}

void register_exit(py::module_& module) {
    py::classh<ExitObject>(
        module, "Exit",
        "What one KVM_RUN came to, decoded. A plain value.\n\n"
        "`fields` depends on `name`: for IO is_write, port, size_bytes, count, data; for MMIO is_write, "
        "guest_address, size_bytes, data; and so on for every reason. `problem` among them says that KVM's bytes "
        "contradict themselves and were not followed; of a reason that is not known there are `bytes`.")
        .def_property_readonly(
            "result", [](const ExitObject& self) { return self.exit.result; }, "What KVM_RUN returned.")
        .def_property_readonly(
            "errno", [](const ExitObject& self) { return self.exit.errno_value; }, "Its errno, or 0.")
        .def_property_readonly(
            "reason",
            [](const ExitObject& self) -> std::optional<std::uint32_t> {
                return self.exit.has_reason ? std::optional(self.exit.reason) : std::nullopt;
            },
            "The number of the exit reason; None when KVM_RUN failed.")
        .def_property_readonly(
            "name", [](const ExitObject& self) { return self.exit.name(); },
            "\"IO\", \"HLT\", ... ; \"reason 77\" beyond what is known, \"error\" without a reason.")
        .def_property_readonly("fields", &fields_of, "The payload, by name.")
        .def_property_readonly(
            "action", [](const ExitObject& self) { return self.exit.action; },
            "What `classify_exit` or the dispatcher decided; none for an exit that was only decoded.")
        .def_property_readonly(
            "is_interrupted", [](const ExitObject& self) { return self.exit.is_interrupted(); },
            "EINTR or EAGAIN: run again.")
        .def("__str__", [](const ExitObject& self) { return self.exit.describe(); })
        .def("__repr__", [](const ExitObject& self) { return "<Exit " + self.exit.describe() + ">"; });
    module.def(
        "decode_exit",
        [](GuestArch arch, int result, int errno_value, const py::buffer& run_bytes) {
            const BufferView view(run_bytes);
            return keep_exit(decode_exit(arch, result, errno_value, view.bytes()), view.bytes());
        },
        py::arg("arch"), py::arg("result"), py::arg("errno"), py::arg("run_bytes"),
        "Decodes what KVM_RUN returned and the bytes of struct kvm_run with what follows it. Pure: needs no KVM, "
        "either architecture on any host. Never raises on what the bytes say.");
    module.def(
        "classify_exit",
        [](FastEnum<ExitProfile> profile, FastEnum<GuestArch> arch, int result, int errno_value,
           const py::buffer& run_bytes) {
            const BufferView view(run_bytes);
            return keep_exit(classify_exit(profile.value, arch.value, result, errno_value, view.bytes()), view.bytes());
        },
        py::arg("profile"), py::arg("arch"), py::arg("result"), py::arg("errno"), py::arg("run_bytes"),
        "Decodes what KVM_RUN returned, as `decode_exit` does, and decides: the exit's `action`. Pure: does nothing, "
        "needs no KVM, either architecture on any host. `run_bytes` is struct kvm_run with what follows it, in "
        "anything "
        "that has a buffer. Never raises on what the bytes say: what contradicts itself is fatal under both profiles, "
        "and not followed.");
    module.def("exit_reason_name", &exit_reason_name, py::arg("reason"), "The name of an exit reason, or ''.");
}

}  // namespace vmthaw::bindings
