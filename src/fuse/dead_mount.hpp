#pragma once

#include "fuse/mount_table.hpp"

namespace vmthaw {

// Takes away a mount whose server has ended (every call says ENOTCONN). false: it is alive, or too slow to tell within
// two seconds, or may not be unmounted by us. Never waits for longer.
[[nodiscard]] bool clear_dead_mount(const MountEntry& entry);

}  // namespace vmthaw
