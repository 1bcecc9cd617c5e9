#include "filesystem/host_identity.hpp"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace vmthaw {
namespace {

using Capabilities = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

// Capabilities are a thread's; version 3 with pid 0 means this one. All that we change have numbers below 32.
bool change_capabilities(std::uint32_t raised, std::uint32_t dropped) noexcept {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    Capabilities found{};
    if (::syscall(SYS_capget, &header, found.data()) != 0) {
        return false;
    }
    const std::uint32_t before = found[0].effective;
    found[0].effective = (before | (raised & found[0].permitted)) & ~dropped;
    return found[0].effective != before && ::syscall(SYS_capset, &header, found.data()) == 0;
}

constexpr std::uint32_t bit(int capability) { return 1U << static_cast<unsigned>(capability); }

}  // namespace

HostIdentity::HostIdentity(std::uint32_t uid, std::uint32_t gid) noexcept
    : own_uid_(::geteuid()), own_gid_(::getegid()) {
    if (gid != own_gid_) {
        ::setfsgid(gid);
        changed_gid_ = true;
    }
    if (uid != own_uid_) {
        ::setfsuid(uid);
        changed_uid_ = true;
        // Leaving root takes these; the set-gid bit of new files in set-gid directories is the client's affair as well.
        change_capabilities(bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_FSETID) | bit(CAP_MKNOD), 0);
    }
}

HostIdentity::~HostIdentity() {
    const int saved = errno;
    if (changed_uid_) {
        ::setfsuid(own_uid_);
    }
    if (changed_gid_) {
        ::setfsgid(own_gid_);
    }
    errno = saved;
}

HostKillsPrivileges::HostKillsPrivileges(int fd, bool wanted) noexcept {
    struct stat found{};
    if (wanted && ::fstat(fd, &found) == 0 && (found.st_mode & (S_ISUID | S_ISGID)) != 0) {
        changed_ = change_capabilities(0, bit(CAP_FSETID));
    }
}

HostKillsPrivileges::~HostKillsPrivileges() {
    if (changed_) {
        const int saved = errno;
        change_capabilities(bit(CAP_FSETID), 0);
        errno = saved;
    }
}

}  // namespace vmthaw
