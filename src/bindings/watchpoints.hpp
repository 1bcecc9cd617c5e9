#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/bindings.hpp"
#include "kvm/vm.hpp"
#include "machine/guest_memory.hpp"
#include "machine/watchpoints/read_only_pages.hpp"
#include "machine/watchpoints/watchpoints.hpp"

namespace vmthaw::bindings {

// The watchpoints, and what they point into. Only Python objects own it, so it goes with the GIL held.
struct WatchpointsObject {
    py::object vm;                        // None, or the Vm below
    std::shared_ptr<GuestMemory> memory;  // or null
    std::unique_ptr<Watchpoints> core;
    std::unique_ptr<ReadOnlyPages> pages;  // of a Vm
    std::mutex mutex;                      // guards what follows, and the pages
    std::array<std::optional<std::uint64_t>, kWatchSlots> page_of_slot;
};

}  // namespace vmthaw::bindings
