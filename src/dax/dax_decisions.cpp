#include "dax/dax_decisions.hpp"

#include <exception>

namespace vmthaw {

bool DaxDecisions::ask(const DaxFile& file, bool is_open) noexcept {
    const bool answer = policy_->uses_dax(file);
    const std::lock_guard lock(mutex_);
    try {
        said_[file.node] = {answer, is_open, false, file.name};
    } catch (const std::exception&) {
        return answer;  // no memory to remember it: the next request asks again
    }
    return answer;
}

bool DaxDecisions::opened(const DaxFile& file) noexcept { return !policy_ || ask(file, true); }

void DaxDecisions::opened(std::uint64_t node) noexcept {
    const std::lock_guard lock(mutex_);
    if (const auto found = said_.find(node); found != said_.end()) {
        found->second.is_stale = found->second.is_open;
        found->second.is_open = true;
    }
}

bool DaxDecisions::uses_dax(const DaxFile& file) noexcept {
    if (!policy_) {
        return true;
    }
    try {
        DaxFile asked = file;
        bool is_open = false;
        {
            const std::lock_guard lock(mutex_);
            if (const auto found = said_.find(file.node); found != said_.end()) {
                const Said& said = found->second;
                if (!said.is_stale) {
                    return said.answer;
                }
                asked.name = asked.name.empty() ? said.name : asked.name;
                is_open = said.is_open;
            }
        }
        return ask(asked, is_open);
    } catch (const std::exception&) {
        return false;  // no memory for a name: by requests, then
    }
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
