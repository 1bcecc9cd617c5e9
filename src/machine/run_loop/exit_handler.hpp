#pragma once

#include <cstddef>
#include <optional>

#include "kvm/vcpu.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {

// Decides about exits before the dispatcher sees them. Called on the vCPU's thread, without a lock held, for the exits
// that its ExitFilter names; answers of reads go into the vCPU's run bytes.
class ExitHandler {
public:
    ExitHandler() = default;
    virtual ~ExitHandler() = default;
    ExitHandler(const ExitHandler&) = delete;
    ExitHandler& operator=(const ExitHandler&) = delete;

    // What is to be done, or nothing: then the dispatcher decides. A handler that failed says fatal, and keeps why.
    [[nodiscard]] virtual std::optional<ExitAction> handle(std::size_t vcpu, const Exit& exit, Vcpu& target,
                                                           std::size_t entry) noexcept = 0;
};

}  // namespace vmthaw
