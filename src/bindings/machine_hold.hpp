#pragma once

#include <memory>

#include "base/error.hpp"
#include "machine/machine.hpp"

namespace vmthaw::bindings {

struct HoldObject {
    std::shared_ptr<Machine> machine;     // outlives the hold
    std::shared_ptr<Machine::Hold> hold;  // shared with work that outlives the wait for it

    // Throws ArgumentError unless it holds that machine.
    void check(const Machine& wanted) const {
        if (machine.get() != &wanted || hold == nullptr) {
            throw ArgumentError("the hold is another machine's, or was released");
        }
    }
};

}  // namespace vmthaw::bindings
