#pragma once

#include <span>
#include <string>

#include "bindings/bindings.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw::bindings {

// What Python calls Exit: the decoded exit with the elements of a port access, which KVM_RUN overwrites.
struct ExitObject {
    Exit exit;
    std::string data;
};

[[nodiscard]] ExitObject keep_exit(const Exit& exit, std::span<const std::byte> run_bytes);

}  // namespace vmthaw::bindings
