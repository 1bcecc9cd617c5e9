// GIL and locking: bytes of a guest are copied by a thread of the core, without the GIL: a page may be missing for ever
// (userfaultfd). The caller waits, with a time-out and interruptible; a copy that never ends keeps the memory mapped.
#include <pybind11/stl.h>

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/detached_call.hpp"
#include "machine/guest_memory.hpp"

namespace vmthaw::bindings {
namespace {

using Buffer = std::shared_ptr<std::vector<std::byte>>;

int let_go(void* object) {
    Py_DECREF(static_cast<PyObject*>(object));
    return 0;
}

// Keeps a Python object until the memory goes. That may be on a thread of the core, which must not take the GIL: then
// the main thread lets go of it, at its next opportunity.
std::shared_ptr<void> keep(py::object object) {
    return {object.release().ptr(), [](void* held) {
                if (PyGILState_Check() != 0) {
                    let_go(held);
                } else {
                    (void)Py_AddPendingCall(&let_go, held);  // refused: it is kept for ever, which harms nobody
                }
            }};
}

py::bytes read(const std::shared_ptr<GuestMemory>& memory, std::uint64_t guest_address, std::uint64_t size,
               double timeout) {
    (void)memory->at(guest_address, size);  // before the buffer is allocated
    const Buffer out = std::make_shared<std::vector<std::byte>>(size);
    call_detached("reading guest memory", timeout, [memory, out, guest_address] { memory->read(guest_address, *out); });
    return {reinterpret_cast<const char*>(out->data()), out->size()};
}

void write(const std::shared_ptr<GuestMemory>& memory, std::uint64_t guest_address, const py::bytes& data,
           double timeout) {
    const auto text = static_cast<std::string_view>(data);
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    const Buffer copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
    call_detached("writing guest memory", timeout,
                  [memory, copy, guest_address] { memory->write(guest_address, *copy); });
}

}  // namespace

void register_guest_memory(py::module_& module) {
    py::class_<GuestMemory, std::shared_ptr<GuestMemory>>(
        module, "GuestMemory",
        "A guest's memory in this process, laid out as Firecracker does on x86-64: up to 3 GiB, then from 4 GiB on.\n\n"
        "Sizes in bytes: a multiple of 4096 from 2 MiB to 64 GiB, else VmthawValueError. Safe from any thread; what "
        "races "
        "is the caller's business. `read` and `write` copy in a thread of the core, with the GIL released.")
        .def_static("anonymous", &GuestMemory::anonymous, py::arg("size"), py::call_guard<py::gil_scoped_release>(),
                    "Zeros: private, not reserved, 2 MiB-aligned.")
        .def_static("map_file", &GuestMemory::map_file, py::arg("path"), py::arg("size"),
                    py::call_guard<py::gil_scoped_release>(),
                    "A private mapping of a memory file of at least `size` bytes; writes stay here. Raises OSError.")
        .def_static(
            "borrow",
            [](const std::vector<std::uint64_t>& host_addresses, std::uint64_t size, py::object owner) {
                return GuestMemory::borrow(host_addresses, size, keep(std::move(owner)));
            },
            py::arg("host_addresses"), py::arg("size"), py::arg("owner") = py::none(),
            "Memory of somebody else in this process, one page-aligned address for each region, trusted to be mapped. "
            "`owner` is kept as long as the memory is used.")
        .def_property_readonly("size", &GuestMemory::size_bytes, "Bytes.")
        .def_property_readonly(
            "regions",
            [](const GuestMemory& self) {
                std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>> regions;
                for (const GuestRegion& region : self.regions()) {
                    regions.emplace_back(region.host_address(), region.guest_address, region.size_bytes,
                                         region.file_offset);
                }
                return regions;
            },
            "(host_address, guest_address, size, file_offset) of each region, in bytes.")
        .def(
            "read", &read, py::arg("guest_address"), py::arg("size"), py::arg("timeout") = 30.0,
            "Copies bytes out of the guest. Raises VmthawValueError outside a region, TimeoutError when a page did not "
            "come within `timeout` seconds. Ctrl-C ends the wait.")
        .def("write", &write, py::arg("guest_address"), py::arg("data"), py::arg("timeout") = 30.0,
             "Copies bytes into the guest. As `read`.")
        .def(
            "mark_written", &GuestMemory::mark_written, py::arg("guest_address"), py::arg("size"),
            "Tells of bytes that were written past `write`, through the host addresses, afterwards: or a diff snapshot "
            "lacks them.");
}

}  // namespace vmthaw::bindings
