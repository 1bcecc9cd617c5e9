#pragma once

#include <string>

#include "base/unique_fd.hpp"

namespace vmthaw {

// The set-uid helper of the fuse3 package, by which a user without CAP_SYS_ADMIN mounts and unmounts. Both wait for it;
// what it says on standard error becomes the message.

// `options` as in -o. Gives the /dev/fuse of the new mount. Throws SystemError (ENOENT: not installed).
[[nodiscard]] UniqueFd fusermount_mount(const std::string& mount_point, const std::string& options);
// 0, or an errno: EBUSY, EPERM (not ours), ENOENT (not installed). `lazy` takes it out of sight at once.
[[nodiscard]] int fusermount_unmount(const std::string& mount_point, bool lazy) noexcept;

}  // namespace vmthaw
