#pragma once

#include <cstddef>
#include <span>

#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

// A contiguous view of a Python buffer. Made (error_already_set when the object has none) and destroyed with the GIL
// held; the bytes may be used without it. To be written to only if made `writable`.
class BufferView {
public:
    explicit BufferView(const py::handle& object, bool writable = false) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
            throw py::error_already_set();
        }
    }
    BufferView(const BufferView&) = delete;
    BufferView& operator=(const BufferView&) = delete;
    BufferView(BufferView&&) = delete;
    BufferView& operator=(BufferView&&) = delete;
    ~BufferView() { PyBuffer_Release(&view_); }

    [[nodiscard]] std::span<std::byte> bytes() const noexcept {
        return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
    }

private:
    Py_buffer view_{};
};

}  // namespace vmthaw::bindings
