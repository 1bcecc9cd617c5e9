#pragma once

#include <cstdint>

namespace vmthaw {

// While it lives, files that this thread makes belong to `uid` and `gid` (setfsuid, setfsgid). The right to write into
// any directory is kept: the client's kernel has checked the caller's, supplementary groups included, which are not
// known here. Costs nothing where the two are the thread's own; nothing happens without the right to change them.
class HostIdentity {
public:
    HostIdentity(std::uint32_t uid, std::uint32_t gid) noexcept;
    ~HostIdentity();
    HostIdentity(const HostIdentity&) = delete;
    HostIdentity& operator=(const HostIdentity&) = delete;

private:
    std::uint32_t own_uid_;
    std::uint32_t own_gid_;
    bool changed_uid_ = false;
    bool changed_gid_ = false;
};

// While it lives, this thread's writes and truncations take set-uid and set-gid bits away, as those of a user do.
class HostKillsPrivileges {
public:
    // Does so only where `wanted` and the open file has such bits.
    HostKillsPrivileges(int fd, bool wanted) noexcept;
    ~HostKillsPrivileges();
    HostKillsPrivileges(const HostKillsPrivileges&) = delete;
    HostKillsPrivileges& operator=(const HostKillsPrivileges&) = delete;

private:
    bool changed_ = false;
};

}  // namespace vmthaw
