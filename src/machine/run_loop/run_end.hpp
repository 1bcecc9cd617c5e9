#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "vcpu/exit.hpp"

namespace vmthaw {

// How a run ended: somebody asked for it; the guest powered off or reset; a vCPU halted and nothing can wake it; an
// exit came that neither handler, dispatcher nor run loop knows an answer to; or there is no going on.
enum class RunEndKind : std::uint8_t { stopped, shutdown, halted, unhandled, fatal };

struct RunEnd {
    RunEndKind kind = RunEndKind::stopped;
    std::size_t vcpu = 0;  // whose exit it was; of `stopped`, 0
    Exit exit;             // of all but `stopped`
    ExitAction action;
    std::string device;  // the window whose device failed, if that was it
};

}  // namespace vmthaw
