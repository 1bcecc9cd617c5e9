#include "bindings/python_device.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/callee.hpp"

namespace vmthaw::bindings {
namespace {

// A pointer, so that a thread that ends has nothing to destroy.
thread_local std::exception_ptr* t_error = nullptr;

// The first one counts; what comes after it usually follows from it.
void keep_error(std::exception_ptr error) {
    if (t_error == nullptr) {
        t_error = std::make_unique<std::exception_ptr>(std::move(error)).release();
    }
}

// Calls what Python wrote, with its exceptions kept for the thread.
class Callee {
public:
    explicit Callee(py::object object) noexcept : object_(std::move(object)) {}

    // Runs `call(object)` with the GIL. Without the memory to take it, or to keep an error, it fails and says no more.
    template <typename Call>
    [[nodiscard]] DeviceOutcome with(Call call) const noexcept {
        try {
            const py::gil_scoped_acquire gil;
            try {
                call(object_.get());
                return DeviceOutcome::done;
            } catch (...) {
                keep_error(std::current_exception());
            }
        } catch (...) {
            return DeviceOutcome::failed;
        }
        return DeviceOutcome::failed;
    }

    [[nodiscard]] DeviceOutcome read(const char* method, std::uint64_t offset,
                                     std::span<std::uint8_t> out) const noexcept {
        return with([&](const py::object& object) {
            const py::object given = object.attr(method)(offset, out.size());
            const BufferView view(given);
            if (view.bytes().size() != out.size()) {
                throw ArgumentError(std::string(method) + "(" + hex(offset) + ", " + std::to_string(out.size()) +
                                    ") of " + std::string(py::str(py::type::of(object).attr("__name__"))) + " gave " +
                                    std::to_string(view.bytes().size()) + " bytes");
            }
            std::ranges::transform(view.bytes(), out.begin(),
                                   [](std::byte byte) { return std::to_integer<std::uint8_t>(byte); });
        });
    }

    [[nodiscard]] DeviceOutcome write(const char* method, std::uint64_t offset,
                                      std::span<const std::uint8_t> data) const noexcept {
        return with([&](const py::object& object) {
            object.attr(method)(offset, py::bytes(reinterpret_cast<const char*>(data.data()), data.size()));
        });
    }

private:
    CalleeReference object_;
};

class PythonDevice final : public Device {
public:
    explicit PythonDevice(py::object object) noexcept : callee_(std::move(object)) {}
    [[nodiscard]] DeviceOutcome read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        return callee_.read("read", offset, out);
    }
    [[nodiscard]] DeviceOutcome write(std::uint64_t offset, std::span<const std::uint8_t> data) noexcept override {
        return callee_.write("write", offset, data);
    }

private:
    Callee callee_;
};

class PythonInterrupt final : public InterruptLine {
public:
    explicit PythonInterrupt(py::object callable) noexcept : callee_(std::move(callable)) {}
    [[nodiscard]] DeviceOutcome set_level(bool level) noexcept override {
        return callee_.with([level](const py::object& callable) { callable(level); });
    }

private:
    Callee callee_;
};

class PythonBackend final : public VirtioBackend {
public:
    explicit PythonBackend(const py::object& object)
        : device_id_(object.attr("device_id").cast<std::uint32_t>()),
          features_(object.attr("features").cast<std::uint64_t>()),
          queue_count_(object.attr("queue_count").cast<std::size_t>()),
          callee_(object) {}

    [[nodiscard]] std::uint32_t device_id() const noexcept override { return device_id_; }
    [[nodiscard]] std::uint64_t features() const noexcept override { return features_; }
    [[nodiscard]] std::size_t queue_count() const noexcept override { return queue_count_; }
    [[nodiscard]] DeviceOutcome read_config(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        return callee_.read("read_config", offset, out);
    }
    [[nodiscard]] DeviceOutcome write_config(std::uint64_t offset,
                                             std::span<const std::uint8_t> data) noexcept override {
        return if_there("write_config", offset, Bytes{data});
    }
    [[nodiscard]] DeviceOutcome activate(std::uint64_t features,
                                         std::span<const VirtioQueue> queues) noexcept override {
        return callee_.with([&](const py::object& object) {
            if (!py::hasattr(object, "activate")) {
                return;
            }
            py::list list;
            for (const VirtioQueue& queue : queues) {
                list.append(queue);
            }
            object.attr("activate")(features, list);
        });
    }
    [[nodiscard]] DeviceOutcome reset() noexcept override { return if_there("reset"); }
    [[nodiscard]] DeviceOutcome notify(std::size_t queue) noexcept override { return if_there("notify", queue); }

private:
    // Bytes that become an object once the GIL is there.
    struct Bytes {
        std::span<const std::uint8_t> data;
    };
    static py::object as_object(const Bytes& bytes) {
        return py::bytes(reinterpret_cast<const char*>(bytes.data.data()), bytes.data.size());
    }
    static py::object as_object(std::uint64_t value) { return py::int_(value); }

    template <typename... Arguments>
    [[nodiscard]] DeviceOutcome if_there(const char* method, const Arguments&... arguments) const noexcept {
        return callee_.with([&](const py::object& object) {
            if (py::hasattr(object, method)) {
                object.attr(method)(as_object(arguments)...);
            }
        });
    }

    std::uint32_t device_id_;
    std::uint64_t features_;
    std::size_t queue_count_;
    Callee callee_;
};

}  // namespace

std::shared_ptr<Device> device_of(const py::object& object) {
    if (py::isinstance<Device>(object)) {
        return object.cast<std::shared_ptr<Device>>();
    }
    demand_method(object, "read", "device");
    demand_method(object, "write", "device");
    return std::make_shared<PythonDevice>(object);
}

std::shared_ptr<InterruptLine> interrupt_of(const py::object& object) {
    if (object.is_none()) {
        return nullptr;
    }
    if (py::isinstance<py::int_>(object)) {
        const int fd = object.cast<int>();
        return std::make_shared<EventInterrupt>(
            UniqueFd(check_errno(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl(F_DUPFD_CLOEXEC)")));
    }
    if (PyCallable_Check(object.ptr()) == 0) {
        throw ArgumentError("an interrupt is None, the descriptor of an eventfd, or a callable that takes the level");
    }
    return std::make_shared<PythonInterrupt>(object);
}

std::shared_ptr<VirtioBackend> backend_of(const py::object& object) {
    if (py::isinstance<VirtioBackend>(object)) {
        return object.cast<std::shared_ptr<VirtioBackend>>();
    }
    for (const char* attribute : {"device_id", "features", "queue_count"}) {
        if (!py::hasattr(object, attribute)) {
            throw ArgumentError(std::string(py::str(py::type::of(object).attr("__name__"))) +
                                " is no virtio back end: it has no " + attribute);
        }
    }
    demand_method(object, "read_config", "virtio back end");
    return std::make_shared<PythonBackend>(object);
}

void raise_device_error() {
    if (t_error != nullptr) {
        const std::unique_ptr<std::exception_ptr> error(std::exchange(t_error, nullptr));
        std::rethrow_exception(*error);
    }
}

}  // namespace vmthaw::bindings
