#pragma once

#include <optional>
#include <vector>

#include "bindings/bindings.hpp"
#include "machine/freeze/freeze_coordinator.hpp"

namespace vmthaw::bindings {

// The snapshots of all vCPUs, which stand still afterwards. GIL held on entry and return, released while waiting;
// Ctrl-C ends the wait, and the guest runs on. Throws Error(FreezeTimeoutError), StateError.
[[nodiscard]] std::vector<std::optional<RegisterSnapshot>> freeze_vcpus(FreezeCoordinator& freezer,
                                                                        std::optional<double> timeout);

}  // namespace vmthaw::bindings
