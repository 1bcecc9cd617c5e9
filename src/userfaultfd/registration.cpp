#include "userfaultfd/registration.hpp"

#include <cerrno>
#include <optional>

#include "base/error.hpp"
#include "userfaultfd/liveness_checker.hpp"

namespace vmthaw {
namespace {

// ENOMEM is what REGISTER and UNREGISTER say for a dead process, but a live one may lack memory too.
bool is_about_a_dead_process(const SystemError& error, const Userfaultfd& userfaultfd,
                             const LivenessChecker& checker) noexcept {
    return (error.errno_value() == ENOMEM || error.errno_value() == ESRCH) &&
           checker.check(userfaultfd) == Liveness::dead;
}

void try_unregister(const Userfaultfd& userfaultfd, const AddressRange& range) {
    try {
        userfaultfd.unregister_range(range.host_address, range.size_bytes);
    } catch (const SystemError&) {
        // The failure that led to the roll-back is the one to report.
    }
}

class RollBack {
public:
    // Reserves, so that no allocation can fail between a registration and its note.
    explicit RollBack(std::span<const DescriptorRanges> entries) {
        std::size_t count = 0;
        for (const DescriptorRanges& entry : entries) {
            count += entry.ranges.size();
        }
        done_.reserve(count);
    }
    void add(const Userfaultfd& userfaultfd, const AddressRange& range) noexcept {
        done_.push_back({&userfaultfd, range});
    }
    void run() {
        while (!done_.empty()) {
            try_unregister(*done_.back().userfaultfd, done_.back().range);
            done_.pop_back();
        }
    }

private:
    struct Done {
        const Userfaultfd* userfaultfd;
        AddressRange range;
    };
    std::vector<Done> done_;
};

}  // namespace

RegistrationOutcome register_regions(std::span<const DescriptorRanges> entries, std::uint64_t modes) {
    const LivenessChecker checker = LivenessChecker::for_adopted();
    RegistrationOutcome outcome;
    outcome.skipped.reserve(entries.size());
    RollBack roll_back(entries);
    std::optional<std::uint64_t> common;
    for (std::size_t index = 0; index < entries.size(); ++index) {
        const Userfaultfd& userfaultfd = *entries[index].userfaultfd;
        for (const AddressRange& range : entries[index].ranges) {
            try {
                const std::uint64_t ioctls = userfaultfd.register_range(range.host_address, range.size_bytes, modes);
                roll_back.add(userfaultfd, range);
                common = common.value_or(ioctls) & ioctls;
            } catch (const SystemError& error) {
                if (is_about_a_dead_process(error, userfaultfd, checker)) {
                    outcome.skipped.push_back(index);
                    break;
                }
                if (error.errno_value() == ENOMEM) {
                    // Splitting a mapping failed in the middle of this range. (After other errors nothing of it was
                    // registered, and part of it may be somebody else's.)
                    try_unregister(userfaultfd, range);
                }
                roll_back.run();
                throw;
            }
        }
    }
    outcome.ioctls = common.value_or(0);
    return outcome;
}

RegistrationOutcome unregister_regions(std::span<const DescriptorRanges> entries) {
    const LivenessChecker checker = LivenessChecker::for_adopted();
    RegistrationOutcome outcome;
    std::optional<SystemError> first_error;
    for (std::size_t index = 0; index < entries.size(); ++index) {
        const Userfaultfd& userfaultfd = *entries[index].userfaultfd;
        for (const AddressRange& range : entries[index].ranges) {
            try {
                userfaultfd.unregister_range(range.host_address, range.size_bytes);
            } catch (const SystemError& error) {
                if (is_about_a_dead_process(error, userfaultfd, checker)) {
                    outcome.skipped.push_back(index);
                    break;
                }
                if (!first_error) {
                    first_error = error;
                }
            }
        }
    }
    if (first_error) {
        throw SystemError(*first_error);
    }
    return outcome;
}

}  // namespace vmthaw
