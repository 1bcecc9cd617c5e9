#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "dax/dax_policy.hpp"

namespace vmthaw {

// What a policy said of the files that a client knows: it is asked once for each open, not for each request. Any
// thread; no lock is held while the policy is asked.
class DaxDecisions {
public:
    explicit DaxDecisions(std::shared_ptr<DaxPolicy> policy) : policy_(std::move(policy)) {}

    // Asks, and remembers.
    bool opened(const DaxFile& file) noexcept;
    // The same when what is known of the file is yet to come: the next uses_dax() asks. The first open takes what was
    // said when the client looked the file up.
    void opened(std::uint64_t node) noexcept;
    // What was said, and asks if nothing was. A name that is empty is the one that was given before. True without a
    // policy.
    bool uses_dax(const DaxFile& file) noexcept;
    // Nobody has the file any more.
    void forgotten(std::uint64_t node) noexcept;
    void clear() noexcept;

private:
    struct Said {
        bool answer = false;
        bool is_open = false;
        bool is_stale = false;
        std::string name;
    };
    [[nodiscard]] bool ask(const DaxFile& file, bool is_open) noexcept;

    std::shared_ptr<DaxPolicy> policy_;
    std::mutex mutex_;
    std::unordered_map<std::uint64_t, Said> said_;
};

}  // namespace vmthaw
