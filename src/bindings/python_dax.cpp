#include "bindings/python_dax.hpp"

#include <cerrno>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "bindings/callee.hpp"

// GIL and locking: a session holds no lock while it calls these (takes_gil). Each takes the GIL itself, and an
// exception becomes an errno with it held: an OSError's own, else EIO and a line under vmthaw.dax.
namespace vmthaw::bindings {
namespace {

// Calls what Python wrote, with its exceptions as errnos.
class DaxCallee {
public:
    explicit DaxCallee(py::object object) noexcept : object_(std::move(object)) {}

    // 0, or the errno of what `call(object)` raised.
    template <typename Call>
    [[nodiscard]] int with(const char* what, Call call) const noexcept {
        try {
            const py::gil_scoped_acquire gil;
            try {
                call(object_.get());
                return 0;
            } catch (py::error_already_set& error) {
                return py::module_::import("vmthaw.dax").attr("_errno_of")(what, error.value()).cast<int>();
            } catch (const std::exception& error) {
                const py::object raised = py::module_::import("builtins").attr("TypeError")(error.what());
                return py::module_::import("vmthaw.dax").attr("_errno_of")(what, raised).cast<int>();
            }
        } catch (...) {
            return EIO;
        }
    }

private:
    CalleeReference object_;
};

class PythonDaxMapper final : public DaxMapper {
public:
    explicit PythonDaxMapper(py::object object)
        : restores_(py::hasattr(object, "restore")), callee_(std::move(object)) {}
    [[nodiscard]] bool takes_gil() const noexcept override { return true; }
    [[nodiscard]] int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override {
        return callee_.with("map", [&](const py::object& self) { self.attr("map")(guest_address, lease, prot); });
    }
    [[nodiscard]] int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept override {
        return callee_.with("unmap", [&](const py::object& self) { self.attr("unmap")(guest_address, length_bytes); });
    }
    [[nodiscard]] int restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override {
        return !restores_ ? 0 : callee_.with("restore", [&](const py::object& self) {
            self.attr("restore")(guest_address, lease, prot);
        });
    }

private:
    bool restores_;
    DaxCallee callee_;
};

class PythonDaxBackend final : public DaxBackend {
public:
    explicit PythonDaxBackend(py::object object) : callee_(std::move(object)) {}
    [[nodiscard]] bool takes_gil() const noexcept override { return true; }
    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override {
        return callee_.with("dax_map", [&](const py::object& self) {
            py::object given = self.attr("dax_map")(node, handle, offset_bytes, length_bytes, prot);
            const Lease& made = given.cast<const Lease&>();
            lease = {made.fd, made.offset_bytes, made.length_bytes, ++tokens_};
            leases_.emplace(lease.token, std::make_unique<DaxCallee>(std::move(given)));
        });
    }
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override {
        return callee_.with("dax_unmap", [&](const py::object& self) {
            const auto found = leases_.extract(lease.token);  // under the GIL, as every access to them
            if (!found.empty()) {
                py::object object;
                static_cast<void>(found.mapped()->with("lease", [&](const py::object& same) { object = same; }));
                self.attr("dax_unmap")(object);
            }
        });
    }

private:
    DaxCallee callee_;
    std::uint64_t tokens_ = 0;
    std::map<std::uint64_t, std::unique_ptr<DaxCallee>> leases_;  // what Python gave, to be given back
};

class PythonDaxPolicy final : public DaxPolicy {
public:
    explicit PythonDaxPolicy(py::object callable) : callee_(std::move(callable)) {}
    [[nodiscard]] bool uses_dax(const DaxFile& file) noexcept override {
        bool answer = false;
        static_cast<void>(callee_.with("policy", [&](const py::object& self) { answer = self(file).cast<bool>(); }));
        return answer;
    }

private:
    DaxCallee callee_;
};

}  // namespace

std::shared_ptr<DaxMapper> dax_mapper_of(const py::object& object) {
    if (py::isinstance<DaxMapper>(object)) {
        return object.cast<std::shared_ptr<DaxMapper>>();
    }
    demand_method(object, "map", "DAX mapper");
    demand_method(object, "unmap", "DAX mapper");
    return std::make_shared<PythonDaxMapper>(object);
}

std::shared_ptr<DaxBackend> dax_backend_of(const py::object& object) {
    if (py::isinstance<DaxBackend>(object)) {
        return object.cast<std::shared_ptr<DaxBackend>>();
    }
    demand_method(object, "dax_map", "DAX backend");
    demand_method(object, "dax_unmap", "DAX backend");
    return std::make_shared<PythonDaxBackend>(object);
}

std::shared_ptr<DaxPolicy> dax_policy_of(const py::object& callable) {
    if (PyCallable_Check(callable.ptr()) == 0) {
        throw ArgumentError("a DAX policy's `decide` must be a callable that takes a DaxFile");
    }
    return std::make_shared<PythonDaxPolicy>(callable);
}

}  // namespace vmthaw::bindings
