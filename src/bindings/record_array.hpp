#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "bindings/bindings.hpp"

namespace vmthaw::bindings {

// The numpy dtype of a record of the core, field by field.
class RecordDtype {
public:
    RecordDtype& field(const char* name, const char* format, std::size_t offset) {
        names_.append(py::str(name));
        formats_.append(py::str(format));
        offsets_.append(offset);
        return *this;
    }
    [[nodiscard]] py::dtype make(std::size_t record_bytes) const {
        return {names_, formats_, offsets_, static_cast<py::ssize_t>(record_bytes)};
    }

private:
    py::list names_;
    py::list formats_;
    py::list offsets_;
};

// The array is the vector's own memory; the capsule frees it with the last view.
template <typename Record>
py::array record_array(std::unique_ptr<std::vector<Record>> records, const py::dtype& dtype) {
    const auto count = static_cast<py::ssize_t>(records->size());
    const void* data = records->data();
    const py::capsule owner(records.release(),
                            [](void* pointer) { delete static_cast<std::vector<Record>*>(pointer); });
    return py::array(dtype, {count}, {static_cast<py::ssize_t>(sizeof(Record))}, data, owner);
}

}  // namespace vmthaw::bindings
