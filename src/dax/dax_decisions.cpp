#include "dax/dax_decisions.hpp"

#include <exception>

namespace vmthaw {

bool DaxDecisions::opened(const DaxFile& file) noexcept {
    if (!policy_) {
        return true;
    }
    const bool answer = policy_->uses_dax(file);
    const std::lock_guard lock(mutex_);
    try {
        said_[file.node] = answer;
    } catch (const std::exception&) {
        return answer;  // no memory to remember it: the next request asks again
    }
    return answer;
}

bool DaxDecisions::uses_dax(const DaxFile& file) noexcept {
    if (!policy_) {
        return true;
    }
    {
        const std::lock_guard lock(mutex_);
        if (const auto found = said_.find(file.node); found != said_.end()) {
            return found->second;
        }
    }
    return opened(file);
}

void DaxDecisions::forgotten(std::uint64_t node) noexcept {
    const std::lock_guard lock(mutex_);
    said_.erase(node);
}

void DaxDecisions::clear() noexcept {
    const std::lock_guard lock(mutex_);
    said_.clear();
}

}  // namespace vmthaw
