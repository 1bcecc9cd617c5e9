// GIL and locking: pure values; everything runs with the GIL held.
#include "bindings/exit.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <string_view>
#include <vector>

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
    ExitObject object{exit, {}};
    if (const auto* io = std::get_if<IoExit>(&exit.payload)) {
        const auto data = run_bytes.subspan(io->data_offset, io->data_bytes());
        object.data.assign(reinterpret_cast<const char*>(data.data()), data.size());
    }
    return object;
}

void register_exit(py::module_& module) {
    py::native_enum<GuestArch>(module, "GuestArch", "enum.Enum", "Whose struct kvm_run it is.")
        .value("x86_64", GuestArch::x86_64)
        .value("aarch64", GuestArch::aarch64)
        .finalize();
    py::classh<ExitObject>(
        module, "Exit",
        "What one KVM_RUN came to, decoded. A plain value.\n\n"
        "`fields` depends on `name`: for IO is_write, port, size_bytes, count, data; for MMIO is_write, "
        "guest_address, size_bytes, data; and so on. `problem` among them says that KVM's bytes "
        "contradict themselves and were not followed.")
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
            "is_interrupted", [](const ExitObject& self) { return self.exit.is_interrupted(); },
            "EINTR or EAGAIN: run again.")
        .def("__repr__", [](const ExitObject& self) { return "<Exit " + self.exit.describe() + ">"; });
    module.def(
        "decode_exit",
        [](GuestArch arch, int result, int errno_value, const py::bytes& run_bytes) {
            const auto text = static_cast<std::string_view>(run_bytes);
            const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
            return keep_exit(decode_exit(arch, result, errno_value, bytes), bytes);
        },
        py::arg("arch"), py::arg("result"), py::arg("errno"), py::arg("run_bytes"),
        "Decodes what KVM_RUN returned and the bytes of struct kvm_run with what follows it. Pure: needs no KVM, "
        "either "
        "architecture on any host. Never raises on what the bytes say.");
    module.def("exit_reason_name", &exit_reason_name, py::arg("reason"), "The name of an exit reason, or ''.");
}

}  // namespace vmthaw::bindings
