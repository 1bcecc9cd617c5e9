#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "dax/dax_policy.hpp"

namespace vmthaw {

// What a policy said of the files that are open: it is asked once for each open, not for each request. Any thread; no
// lock is held while the policy is asked.
class DaxDecisions {
public:
    explicit DaxDecisions(std::shared_ptr<DaxPolicy> policy) : policy_(std::move(policy)) {}

    // A file is opened, or seen for the first time: asks.
    bool opened(const DaxFile& file) noexcept;
    // What was said, and asks if nothing was. True without a policy.
    bool uses_dax(const DaxFile& file) noexcept;
    // Nobody has the file any more.
    void forgotten(std::uint64_t node) noexcept;
    void clear() noexcept;

private:
    std::shared_ptr<DaxPolicy> policy_;
    std::mutex mutex_;
    std::unordered_map<std::uint64_t, bool> said_;
};

}  // namespace vmthaw
