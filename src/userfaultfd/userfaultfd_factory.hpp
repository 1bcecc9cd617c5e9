#pragma once

#include <vector>

#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw {

// A guest with shared memory can fault, and a balloon or a discard must be seen.
inline constexpr Features kDefaultRequiredFeatures{static_cast<std::uint64_t>(Feature::missing_shmem) |
                                                   static_cast<std::uint64_t>(Feature::event_remove)};

struct UserfaultfdOptions {
    bool close_on_exec = true;
    bool nonblocking = true;
    bool user_mode_only = false;  // true: faults of KVM and of system calls fail instead of being served
    Features required = kDefaultRequiredFeatures;
    Features optional{};  // negotiated where the kernel has them
};

// Makes userfaultfd descriptors: through /dev/userfaultfd, which it keeps open (so it works on after a jailer took the
// path away), else through userfaultfd(2). Immutable: safe from several threads. Everything throws SystemError; a
// refusal names its cause (the device's mode, CAP_SYS_PTRACE, vm.unprivileged_userfaultfd) and the remedy.
class UserfaultfdFactory {
public:
    // Probes the kernel, so that a missing permission or feature (EOPNOTSUPP) shows here and not at the first VM.
    explicit UserfaultfdFactory(const UserfaultfdOptions& options = {});

    // A descriptor with features().
    [[nodiscard]] Userfaultfd create() const;
    // A factory with its own duplicate of the device.
    [[nodiscard]] UserfaultfdFactory try_clone() const;

    [[nodiscard]] const UserfaultfdOptions& options() const noexcept { return options_; }
    [[nodiscard]] Features supported() const noexcept { return supported_; }  // by the kernel
    [[nodiscard]] Features features() const noexcept { return features_; }    // of the descriptors made here
    // The descriptors that must survive a sandbox's clean-up for create() to work: the device, or none.
    [[nodiscard]] std::vector<int> descriptors() const;

    // What the kernel supports, asked of a throw-away descriptor. Needs no privilege where userfaultfd(2) has a
    // user-mode-only kind (5.11).
    [[nodiscard]] static Features probe();

private:
    UserfaultfdFactory(UniqueFd device, const UserfaultfdOptions& options, Features supported,
                       Features features) noexcept
        : device_(std::move(device)), options_(options), supported_(supported), features_(features) {}

    UniqueFd device_;
    UserfaultfdOptions options_;
    Features supported_;
    Features features_;
};

}  // namespace vmthaw
