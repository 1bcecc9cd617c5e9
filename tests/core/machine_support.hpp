#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"
#include "machine/machine.hpp"

// A machine without Python, so that sanitizers see it.
namespace vmthaw {

inline constexpr std::uint64_t kMachineMemory = 4U << 20U;
inline constexpr std::uint64_t kWorkPages = kMachineMemory / payload::kPageBytes - payload::kFirstWorkPage;
inline constexpr std::uint64_t kSlice_ns = 20'000'000;

class MachineRun : public ::testing::Test {
protected:
    void SetUp() override {
        try {
            const Kvm kvm;
        } catch (const SystemError& error) {
            GTEST_SKIP() << "no KVM: " << error.what();
        }
        machine_ = std::make_shared<Machine>(GuestMemory::anonymous(kMachineMemory));
        machine_->load_payload();
        workload_.seed = 3;
        workload_.zero_share = payload::kShareOne / 4;
    }

    static payload::Report finish(Machine& machine) {
        for (int slice = 0; slice < 1000; ++slice) {
            if (const std::optional<payload::Report> report = machine.continue_command(kSlice_ns)) {
                return *report;
            }
        }
        throw StateError("the guest does not answer");
    }
    [[nodiscard]] payload::Command command(payload::Operation operation, std::uint64_t count = 0) const {
        return {operation, payload::kFirstWorkPage, kWorkPages, count, payload::kSequential, 1, 0, workload_};
    }
    [[nodiscard]] payload::Report perform(Machine& machine, payload::Operation operation,
                                          std::uint64_t count = 0) const {
        machine.start_command(command(operation, count));
        return finish(machine);
    }

    std::shared_ptr<Machine> machine_;
    payload::Workload workload_{};
};

}  // namespace vmthaw
