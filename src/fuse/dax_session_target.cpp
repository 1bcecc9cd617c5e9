#include "fuse/dax_session_target.hpp"

#include <exception>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "fuse_protocol/mapping_requests.hpp"

namespace vmthaw {

DaxSessionTarget::DaxSessionTarget(std::shared_ptr<DaxSession> session, std::shared_ptr<DaxDecisions> decisions)
    : session_(std::move(session)), decisions_(std::move(decisions)) {
    if (!session_) {
        throw ArgumentError("mappings need a DAX session");
    }
}

int DaxSessionTarget::setup_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept {
    SetupMappingIn request;
    const ParseOutcome parsed = parse_setup_mapping(body, request);
    return parsed.error != 0 ? parsed.error : session_->set_up(node, request);
}

// The node is not looked at: Linux removes mappings of several files by one request.
int DaxSessionTarget::remove_mapping(std::uint64_t /*node*/, std::span<const std::byte> body) noexcept {
    RemoveMappingEntries entries;
    const ParseOutcome parsed = parse_remove_mapping(body, entries);
    return parsed.error != 0 ? parsed.error : session_->remove(entries);
}

void DaxSessionTarget::reset() noexcept {
    static_cast<void>(session_->reset());  // a new client comes either way
    if (decisions_) {
        decisions_->clear();
    }
}

std::uint16_t DaxSessionTarget::map_alignment() const noexcept { return session_->map_alignment(); }

bool DaxSessionTarget::uses_dax(std::uint64_t node, const FuseAttr& attr, std::string_view name) noexcept {
    if (!decisions_) {
        return true;
    }
    try {
        return decisions_->uses_dax(DaxFile{node, std::string(name), attr.size});
    } catch (const std::exception&) {
        return false;
    }
}

void DaxSessionTarget::opened(std::uint64_t node) noexcept {
    if (decisions_) {
        decisions_->opened(node);
    }
}

void DaxSessionTarget::forgotten(std::uint64_t node) noexcept {
    if (decisions_) {
        decisions_->forgotten(node);
    }
}

}  // namespace vmthaw
