#include "fuse/fuse_call.hpp"

#include <sys/stat.h>

#include "base/clock.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

std::uint64_t chosen_ttl_ns(std::uint64_t given_ns, std::uint64_t servers_ns) noexcept {
    return given_ns == kServersTtl_ns ? servers_ns : given_ns;
}

}  // namespace

FuseAttr FuseCall::wire(std::uint64_t node, const FuseAttr& attr, std::string_view name) const noexcept {
    FuseAttr told = attr;
    told.flags &= ~kFuseAttrDax;
    if ((session.flags & kFuseHasInodeDax) != 0 && dax != nullptr && S_ISREG(attr.mode) &&
        dax->uses_dax(node, attr, name)) {
        told.flags |= kFuseAttrDax;
    }
    return told;
}

FuseEntryOut FuseCall::wire(const NodeEntry& entry, std::string_view name) const noexcept {
    FuseEntryOut out_entry = wire_unasked(entry);
    out_entry.attr = wire(entry.node, entry.attr, name);
    return out_entry;
}

FuseEntryOut FuseCall::wire_unasked(const NodeEntry& entry) const noexcept {
    const std::uint64_t entry_ttl_ns = chosen_ttl_ns(entry.entry_ttl_ns, session.entry_ttl_ns);
    const std::uint64_t attr_ttl_ns = chosen_ttl_ns(entry.attr_ttl_ns, session.attr_ttl_ns);
    FuseEntryOut out_entry;
    out_entry.nodeid = entry.node;
    out_entry.generation = entry.generation;
    out_entry.entry_valid = entry_ttl_ns / kSecond_ns;
    out_entry.entry_valid_nsec = static_cast<std::uint32_t>(entry_ttl_ns % kSecond_ns);
    out_entry.attr_valid = attr_ttl_ns / kSecond_ns;
    out_entry.attr_valid_nsec = static_cast<std::uint32_t>(attr_ttl_ns % kSecond_ns);
    out_entry.attr = entry.attr;
    out_entry.attr.flags &= ~kFuseAttrDax;
    return out_entry;
}

FuseAttrOut FuseCall::wire(std::uint64_t node, const NodeAttributes& attributes) const noexcept {
    const std::uint64_t ttl_ns = chosen_ttl_ns(attributes.attr_ttl_ns, session.attr_ttl_ns);
    FuseAttrOut out_attr;
    out_attr.attr_valid = ttl_ns / kSecond_ns;
    out_attr.attr_valid_nsec = static_cast<std::uint32_t>(ttl_ns % kSecond_ns);
    out_attr.attr = wire(node, attributes.attr, {});
    return out_attr;
}

}  // namespace vmthaw
