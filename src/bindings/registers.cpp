// GIL and locking: ioctls run with the GIL released. Guest memory is read on a thread of the core (call_detached),
// since a page may be missing for ever; a reader written in Python is called with the GIL held, on the caller's thread.
#include "machine/capture_registers.hpp"

#include <pybind11/functional.h>
#include <pybind11/native_enum.h>
#include <pybind11/operators.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/detached_call.hpp"
#include "machine/capture_full.hpp"
#include "machine/core_dump.hpp"
#include "machine/guest_memory.hpp"
#include "vcpu/full_registers.hpp"
#include "vcpu/page_walk.hpp"
#include "vcpu/register_snapshot.hpp"

namespace vmthaw::bindings {
namespace {

using MemoryPointer = std::shared_ptr<GuestMemory>;
using PythonReader = std::function<std::optional<py::bytes>(std::uint64_t, std::size_t)>;
using Memory = std::variant<MemoryPointer, PythonReader>;

ReadPhysical reader_of(const PythonReader& python) {
    return [&python](std::uint64_t guest_physical, std::span<std::byte> out) {
        const std::optional<py::bytes> found = python(guest_physical, out.size());
        if (!found) {
            return false;
        }
        const auto text = static_cast<std::string_view>(*found);
        if (text.size() != out.size()) {
            throw ArgumentError("the reader gave " + std::to_string(text.size()) +
                                " bytes of guest memory instead of " + std::to_string(out.size()));
        }
        std::memcpy(out.data(), text.data(), out.size());
        return true;
    };
}

[[noreturn]] void raise_failure(const WalkFailure& failure) {
    throw Error(failure.describe(), "TranslationError",
                {{"address", failure.address},
                 {"reason", std::string(walk_failure_name(failure.reason))},
                 {"level", std::int64_t{failure.level}},
                 {"entry_address", failure.entry_address},
                 {"entry", failure.entry}});
}

// `work` with a reader of either kind of memory; it must own what it touches.
template <typename Result, typename Work>
Result with_reader(const Memory& memory, double timeout, const Work& work) {
    if (const auto* const python = std::get_if<PythonReader>(&memory)) {
        return work(reader_of(*python));
    }
    const MemoryPointer guest = std::get<MemoryPointer>(memory);
    if (!guest) {
        throw ArgumentError("memory is None; give a GuestMemory or a function");
    }
    const auto result = std::make_shared<Result>();
    call_detached("reading guest memory", timeout, [guest, result, work] { *result = work(physical_reader(*guest)); });
    return std::move(*result);
}

PageTranslation translate_address(const PagingState& state, const Memory& memory, std::uint64_t address,
                                  double timeout) {
    const auto result = with_reader<WalkResult>(
        memory, timeout, [state, address](const ReadPhysical& read) { return translate(state, read, address); });
    if (const auto* const failure = std::get_if<WalkFailure>(&result)) {
        raise_failure(*failure);
    }
    return std::get<PageTranslation>(result);
}

py::bytes read_virtual(const PagingState& state, const Memory& memory, std::uint64_t address, std::size_t size,
                       double timeout) {
    constexpr std::size_t kMost = std::size_t{1} << 30U;
    if (size > kMost) {
        throw ArgumentError("a read of " + std::to_string(size) + " bytes; at most 1 GiB at once");
    }
    using Bytes = std::vector<std::byte>;
    using Answer = std::pair<Bytes, std::optional<WalkFailure>>;
    const auto answer = with_reader<Answer>(memory, timeout, [state, address, size](const ReadPhysical& read) {
        Answer found{Bytes(size), std::nullopt};
        found.second = read_guest_virtual(state, read, address, found.first);
        return found;
    });
    if (answer.second) {
        raise_failure(*answer.second);
    }
    return {reinterpret_cast<const char*>(answer.first.data()), answer.first.size()};
}

MappedRanges ranges_of(const PagingState& state, const Memory& memory, std::size_t most, double timeout) {
    return with_reader<MappedRanges>(
        memory, timeout, [state, most](const ReadPhysical& read) { return mapped_ranges(state, read, most); });
}

py::object number_of(const RegisterBytes& bytes) {
    const py::bytes raw(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return py::module_::import("builtins").attr("int").attr("from_bytes")(raw, "little");
}

py::object number_or_none(const std::optional<RegisterBytes>& bytes) {
    return bytes ? number_of(*bytes) : py::object(py::none());
}

py::dict values_of(const FullRegisters& self) {
    py::dict values;
    for (const NamedRegister& entry : self.registers) {
        values[py::str(entry.name)] = number_of(entry.value);
    }
    return values;
}

CoreDumpReport dump(const std::string& path, const MemoryPointer& memory, const std::vector<FullRegisters>& vcpus,
                    CoreAddresses addresses, double timeout) {
    if (!memory) {
        throw ArgumentError("memory is None; give a GuestMemory");
    }
    const auto cancelled = std::make_shared<std::atomic<bool>>(false);
    const auto report = std::make_shared<CoreDumpReport>();
    try {
        call_detached("writing a core dump", timeout,
                      [=] { *report = write_core_dump(*memory, vcpus, addresses, path, *cancelled); });
    } catch (...) {
        cancelled->store(true);
        throw;
    }
    return *report;
}

void register_snapshots(py::module_& module) {
    py::classh<RegisterSnapshot>(
        module, "RegisterSnapshot",
        "Where a vCPU is and whose memory it sees: RIP, RSP, CR3, or PC, SP_EL1, TTBR1_EL1 (0 when it could not be "
        "read) with TTBR0_EL1 and TCR_EL1 if they could. A plain value; `str` gives its text form.")
        .def(py::init<std::uint64_t, std::uint64_t, std::uint64_t, std::optional<std::uint64_t>,
                      std::optional<std::uint64_t>>(),
             py::arg("instruction_pointer"), py::arg("stack_pointer"), py::arg("page_table_root"),
             py::arg("user_page_table_root") = py::none(), py::arg("tcr_el1") = py::none())
        .def_readonly("instruction_pointer", &RegisterSnapshot::instruction_pointer)
        .def_readonly("stack_pointer", &RegisterSnapshot::stack_pointer)
        .def_readonly("page_table_root", &RegisterSnapshot::page_table_root)
        .def_readonly("user_page_table_root", &RegisterSnapshot::user_page_table_root)
        .def_readonly("tcr_el1", &RegisterSnapshot::tcr_el1)
        .def("to_json", &RegisterSnapshot::to_json, "One object; absent fields are left out.")
        .def_static("from_json", &RegisterSnapshot::from_json, py::arg("text"),
                    "What `to_json` gave. Missing and null are absent; VmthawValueError names a field that is wrong.")
        .def("__str__", &RegisterSnapshot::to_text)
        .def("__repr__", [](const RegisterSnapshot& self) { return "<RegisterSnapshot " + self.to_text() + ">"; })
        .def(
            "__eq__",
            [](const RegisterSnapshot& self, const py::object& other) {
                return py::isinstance<RegisterSnapshot>(other) && self == other.cast<const RegisterSnapshot&>();
            },
            py::arg("other"))
        .def("__hash__", [](const RegisterSnapshot& self) { return py::hash(py::str(self.to_json())); });
    module.def("capture_registers", &capture_registers, py::arg("vcpu"), ReleaseGil(),
               "Drains the vCPU and reads the snapshot; None when that fails. On the vCPU's own thread.");
    module.def("read_page_table_root", &read_page_table_root, py::arg("vcpu"), ReleaseGil(),
               "CR3 or TTBR1_EL1; None when it cannot be read.");
    module.def("read_tcr_el1", &read_tcr_el1, py::arg("vcpu"), ReleaseGil(), "None on x86-64.");
}

void register_full(py::module_& module) {
    py::classh<FullRegisters>(module, "FullRegisters",
                              "Everything that a vCPU holds, by name: \"rax\", \"cs.base\", \"cr3\", \"xmm0\", "
                              "\"msr.0xc0000080\"; \"x0\", \"pc\", \"s3_0_c2_c0_1\". A plain value.")
        .def_readonly("arch", &FullRegisters::arch)
        .def_readonly("after_shutdown", &FullRegisters::after_shutdown,
                      "The last exit was SHUTDOWN, after which KVM may have reset the registers: they tell nothing.")
        .def_property_readonly("values", &values_of, "All, as unsigned numbers, in the architecture's order.")
        .def(
            "__getitem__",
            [](const FullRegisters& self, const std::string& name) {
                const NamedRegister* const found = self.find(name);
                if (found == nullptr) {
                    throw py::key_error(name);
                }
                return number_of(found->value);
            },
            py::arg("name"))
        .def("paging_state", &FullRegisters::paging_state, "For `translate` and the like.");
    py::classh<RegisterDifference>(module, "RegisterDifference", "One register that differs; None where it is absent.")
        .def_readonly("name", &RegisterDifference::name)
        .def_property_readonly("before", [](const RegisterDifference& self) { return number_or_none(self.before); })
        .def_property_readonly("after", [](const RegisterDifference& self) { return number_or_none(self.after); })
        .def("__repr__", [](const RegisterDifference& self) {
            return "<RegisterDifference " + self.name + ": " +
                   py::repr(number_or_none(self.before)).cast<std::string>() + " -> " +
                   py::repr(number_or_none(self.after)).cast<std::string>() + ">";
        });
    module.def("capture_full", &capture_full, py::arg("kvm"), py::arg("vcpu"), ReleaseGil(),
               "Drains the vCPU and reads all that it holds. On the vCPU's own thread. Raises OSError.");
    module.def("diff_registers", &diff, py::arg("before"), py::arg("after"),
               "The registers that differ. VmthawValueError for captures of two architectures.");
    module.def("aarch64_register_name", &aarch64_register_name, py::arg("id"),
               "The name of a register by its number in KVM_GET_REG_LIST.");
}

void register_walk(py::module_& module) {
    py::classh<PagingState>(module, "PagingState", "What decides how addresses are translated. A plain value.")
        .def_static(
            "x86_64",
            [](std::uint64_t cr0, std::uint64_t cr3, std::uint64_t cr4, std::uint64_t efer) {
                PagingState state;
                state.cr0 = cr0;
                state.cr3 = cr3;
                state.cr4 = cr4;
                state.efer = efer;
                return state;
            },
            py::arg("cr0"), py::arg("cr3"), py::arg("cr4"), py::arg("efer"))
        .def_static(
            "aarch64",
            [](std::uint64_t ttbr0, std::uint64_t ttbr1, std::uint64_t tcr, bool is_mmu_on) {
                PagingState state;
                state.arch = GuestArch::aarch64;
                state.ttbr0 = ttbr0;
                state.ttbr1 = ttbr1;
                state.tcr = tcr;
                state.is_mmu_on = is_mmu_on;
                return state;
            },
            py::arg("ttbr0"), py::arg("ttbr1"), py::arg("tcr"), py::arg("is_mmu_on") = true)
        .def_static("of_aarch64", &PagingState::of_aarch64, py::arg("snapshot"),
                    "From a capture that has tcr_el1, the MMU taken to be on. VmthawValueError without it.");
    py::classh<PageTranslation>(module, "PageTranslation", "Where an address lies, and what the tables allow there.")
        .def_readonly("guest_physical", &PageTranslation::guest_physical)
        .def_readonly("page_bytes", &PageTranslation::page_bytes)
        .def_property_readonly("writable", [](const PageTranslation& self) { return self.permissions.writable; })
        .def_property_readonly("user", [](const PageTranslation& self) { return self.permissions.user; })
        .def_property_readonly("kernel_executable",
                               [](const PageTranslation& self) { return self.permissions.kernel_executable; })
        .def_property_readonly("user_executable",
                               [](const PageTranslation& self) { return self.permissions.user_executable; })
        .def_readonly("accessed", &PageTranslation::accessed);
    module.def("translate", &translate_address, py::arg("state"), py::arg("memory"), py::arg("address"),
               py::arg("timeout") = 30.0,
               "Follows the guest's page tables. `memory` is a GuestMemory, or a function (guest_physical, size) that "
               "gives bytes, or None where there are none. Raises TranslationError, TimeoutError.");
    module.def("read_guest_virtual", &read_virtual, py::arg("state"), py::arg("memory"), py::arg("address"),
               py::arg("size"), py::arg("timeout") = 30.0, "Copies guest-virtual memory. As `translate`.");
    module.def(
        "mapped_ranges",
        [](const PagingState& state, const Memory& memory, std::size_t most, double timeout) {
            const MappedRanges found = ranges_of(state, memory, most, timeout);
            py::list list;
            for (const MappedRange& range : found.ranges) {
                list.append(py::make_tuple(range.address, range.guest_physical, range.size_bytes));
            }
            return py::make_tuple(list, found.is_complete);
        },
        py::arg("state"), py::arg("memory"), py::arg("most") = 65000, py::arg("timeout") = 30.0,
        "([(address, guest_physical, size), ...] ascending, whether that is all). As `translate`.");
    py::native_enum<CoreAddresses>(module, "CoreAddresses", "enum.Enum", "What a debugger calls the memory.")
        .value("guest_virtual", CoreAddresses::guest_virtual)
        .value("guest_physical", CoreAddresses::guest_physical)
        .finalize();
    py::classh<CoreDumpReport>(module, "CoreDumpReport", "What a core dump holds.")
        .def_readonly("segments", &CoreDumpReport::segments)
        .def_readonly("data_pages", &CoreDumpReport::data_pages, "Pages of 4096 bytes that are not zeros.")
        .def_readonly("is_complete", &CoreDumpReport::is_complete,
                      "False: the page tables map more pieces than a core file has segments.");
    module.def(
        "write_core_dump", &dump, py::arg("path"), py::arg("memory"), py::arg("vcpus"),
        py::arg("addresses") = CoreAddresses::guest_virtual, py::arg("timeout") = 60.0,
        "Writes an ELF core file that gdb opens: memory with holes for zero pages, each vCPU as a thread. `path` "
        "must not exist (FileExistsError); a failure removes the file. Raises OSError, VmthawValueError.");
}

}  // namespace

void register_registers(py::module_& module) {
    register_snapshots(module);
    register_full(module);
    register_walk(module);
}

}  // namespace vmthaw::bindings
