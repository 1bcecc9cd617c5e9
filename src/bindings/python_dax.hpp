#pragma once

#include <memory>

#include "bindings/bindings.hpp"
#include "dax/dax_mapper.hpp"
#include "dax/dax_policy.hpp"
#include "filesystem/dax_backend.hpp"

namespace vmthaw::bindings {

// A C++ mapper or backend as it is; any other object with the methods `map` and `unmap`, or `dax_map` and `dax_unmap`,
// is called with the GIL, by whichever thread, and without a lock held. Throw ArgumentError.
std::shared_ptr<DaxMapper> dax_mapper_of(const py::object& object);
std::shared_ptr<DaxBackend> dax_backend_of(const py::object& object);
// A callable that takes a DaxFile and gives a bool.
std::shared_ptr<DaxPolicy> dax_policy_of(const py::object& callable);

}  // namespace vmthaw::bindings
