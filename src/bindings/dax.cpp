// GIL and locking: mapping and unmapping run with the GIL released; what is Python takes it again itself.
#include <fcntl.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "bindings/bindings.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/python_dax.hpp"
#include "dax/recording_mapper.hpp"
#include "dax/slot_mapper.hpp"
#include "dax/window_mapper.hpp"
#include "filesystem/host_files.hpp"

namespace vmthaw::bindings {
namespace {

void check_answer(int error, const char* operation) {
    if (error != 0) {
        throw SystemError(error, operation);
    }
}

py::bytes read_window(const WindowMapper& self, std::uint64_t guest_address, std::size_t size) {
    if (self.host_at(guest_address, size) == nullptr) {
        throw ArgumentError(std::to_string(size) + " bytes at guest address " + hex(guest_address) +
                            " are not within the window");
    }
    std::vector<std::byte> bytes(size);
    {
        const py::gil_scoped_release release;
        check_answer(self.read(guest_address, bytes), "reading the DAX window");
    }
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void write_window(const WindowMapper& self, std::uint64_t guest_address, const py::object& data) {
    const BufferView view(data);
    const py::gil_scoped_release release;
    check_answer(self.write(guest_address, view.bytes()), "writing to the DAX window");
}

void register_backends(py::module_& module) {
    py::classh<Lease>(
        module, "Lease",
        "A region of a file that a mapper may map: descriptor, offset and length in bytes. The descriptor "
        "belongs to the backend, and stays open until the lease is given back.")
        .def(py::init([](int fd, std::uint64_t offset, std::uint64_t length) { return Lease{fd, offset, length, 0}; }),
             py::arg("fd"), py::arg("offset"), py::arg("length"))
        .def_readonly("fd", &Lease::fd)
        .def_readonly("offset", &Lease::offset_bytes)
        .def_readonly("length", &Lease::length_bytes);
    py::classh<DaxBackend>(module, "DaxBackend", py::release_gil_before_calling_cpp_dtor(),
                           "What turns regions of files into leases: base of those in C++.")
        .def(
            "dax_map",
            [](DaxBackend& self, std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint64_t length,
               std::uint32_t prot) {
                Lease lease;
                const py::gil_scoped_release release;
                check_answer(self.dax_map(node, handle, offset, length, prot, lease), "dax_map");
                return lease;
            },
            py::arg("node"), py::arg("handle"), py::arg("offset"), py::arg("length"), py::arg("prot"),
            "A lease of a file's bytes; to be given back by `dax_unmap`. Raises OSError.")
        .def(
            "dax_unmap",
            [](DaxBackend& self, const Lease& lease) {
                const py::gil_scoped_release release;
                check_answer(self.dax_unmap(lease), "dax_unmap");
            },
            py::arg("lease"), "Gives a lease back. Raises OSError.");
    py::classh<HostFiles, DaxBackend>(module, "HostFiles", py::release_gil_before_calling_cpp_dtor(),
                                      "Files of the host by node number: a backend without a file system. Thread-safe.")
        .def(py::init<>())
        .def(
            "add",
            [](HostFiles& self, const std::filesystem::path& path, bool read_only) {
                const py::gil_scoped_release release;
                return self.add(path.string(), read_only);
            },
            py::arg("path"), py::kw_only(), py::arg("read_only") = false,
            "A regular file; gives its node number. It is opened for reading now, and for writing when a mapping asks "
            "for that (EROFS if `read_only`). Raises OSError, VmthawValueError for what is no regular file.")
        .def(
            "add_descriptor",
            [](HostFiles& self, int fd) {
                const py::gil_scoped_release release;
                return self.add_descriptor(UniqueFd(check_errno(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl(dup)")));
            },
            py::arg("fd"), "A regular file or memfd that is open already (it is duplicated); gives its node number.")
        .def(
            "remove", [](HostFiles& self, std::uint64_t node) { check_answer(self.remove(node), "HostFiles.remove"); },
            py::arg("node"), ReleaseGil(), "No more leases of it; closed with the last. Raises FileNotFoundError.")
        .def_property_readonly("leases", py::cpp_function(&HostFiles::leases, ReleaseGil()), "Leases that are out.");
}

void register_mappers(py::module_& module) {
    py::classh<DaxMapper>(module, "DaxMapper", py::release_gil_before_calling_cpp_dtor(),
                          "What puts leases at guest addresses: base of those in C++.")
        .def(
            "map",
            [](DaxMapper& self, std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) {
                const py::gil_scoped_release release;
                check_answer(self.map(guest_address, lease, prot), "DaxMapper.map");
            },
            py::arg("guest_address"), py::arg("lease"), py::arg("prot"),
            "Maps all of the lease there, in place of what is there. `prot`: READ 1, WRITE 2. Raises OSError.")
        .def(
            "unmap",
            [](DaxMapper& self, std::uint64_t guest_address, std::uint64_t length) {
                const py::gil_scoped_release release;
                check_answer(self.unmap(guest_address, length), "DaxMapper.unmap");
            },
            py::arg("guest_address"), py::arg("length"), "Makes a hole. Raises OSError.");
    py::classh<WindowMapper, DaxMapper>(
        module, "WindowMapper", py::release_gil_before_calling_cpp_dtor(),
        "One reserved run of host addresses that is a guest's DAX window: give it to the VM as one memory slot, and "
        "keep "
        "it as long as that. Files are mapped into it, holes have PROT_NONE. Sizes in bytes, multiples of 4096. Raises "
        "OSError when the addresses are not to be had. Thread-safe.")
        .def(py::init<std::uint64_t, std::uint64_t>(), py::arg("guest_base"), py::arg("size"), ReleaseGil())
        .def_property_readonly("guest_base", &WindowMapper::guest_base, "Guest address of the first byte.")
        .def_property_readonly("size", &WindowMapper::window_bytes, "Bytes.")
        .def_property_readonly("host_address", &WindowMapper::host_address,
                               "Where it lies in this process. Touching a hole there is a SIGSEGV.")
        .def("read", &read_window, py::arg("guest_address"), py::arg("size"),
             "Bytes as the guest sees them. Raises OSError (EFAULT) where there is a hole, or no more file; "
             "VmthawValueError outside the window. Releases the GIL.")
        .def("write", &write_window, py::arg("guest_address"), py::arg("data"),
             "Stores bytes as the guest would. Raises OSError: EFAULT for a hole, a read-only mapping, no more file; "
             "EINVAL outside the window. Releases the GIL.");
    py::classh<SlotMapper, DaxMapper>(
        module, "SlotMapper", py::release_gil_before_calling_cpp_dtor(),
        "One KVM memory slot for each mapping, numbered from `first_slot` on: for comparison with `WindowMapper`, "
        "which "
        "is faster and replaces atomically. ENOSPC when all `slots` are taken. Thread-safe.")
        .def(py::init<std::shared_ptr<Vm>, std::uint32_t, std::uint32_t>(), py::arg("vm"), py::arg("first_slot"),
             py::arg("slots") = 1024, ReleaseGil())
        .def_property_readonly("slots_in_use", py::cpp_function(&SlotMapper::slots_in_use, ReleaseGil()),
                               "Slots that are taken.");
    py::classh<RecordingMapper, DaxMapper>(
        module, "RecordingMapper", py::release_gil_before_calling_cpp_dtor(),
        "Maps nothing and keeps the newest `most_calls` calls: for tests and measurements. Thread-safe.")
        .def(py::init<std::size_t>(), py::arg("most_calls") = 65536)
        .def("fail_maps", &RecordingMapper::fail_maps, py::arg("errno"), py::arg("count") = 1, ReleaseGil(),
             "Has the next `count` maps fail.")
        .def("fail_unmaps", &RecordingMapper::fail_unmaps, py::arg("errno"), py::arg("count") = 1, ReleaseGil(),
             "Has the next `count` unmaps fail.")
        .def_property_readonly("call_count", py::cpp_function(&RecordingMapper::call_count, ReleaseGil()),
                               "Calls since it was made.")
        .def(
            "take_calls",
            [](RecordingMapper& self) {
                std::vector<RecordingMapper::Call> calls;
                {
                    const py::gil_scoped_release release;
                    calls = self.take_calls();
                }
                py::list list;
                for (const RecordingMapper::Call& call : calls) {
                    list.append(py::make_tuple(call.is_map ? "map" : "unmap", call.guest_address, call.length_bytes,
                                               call.lease.offset_bytes, call.prot, call.error));
                }
                return list;
            },
            "The calls, oldest first, as (what, guest_address, length, offset in the file, prot, errno answered); they "
            "are forgotten then.");
}

}  // namespace

void register_dax(py::module_& module) {
    register_backends(module);
    register_mappers(module);
}

}  // namespace vmthaw::bindings
