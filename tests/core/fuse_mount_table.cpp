#include <gtest/gtest.h>

#include <string>

#include "fuse/mount_table.hpp"

namespace vmthaw {
namespace {

TEST(MountTable, ReadsWhatTheKernelWrites) {
    const auto entries = parse_mount_table(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "42 27 0:39 / /tmp/a\\040b\\011c\\134d rw,relatime - fuse.vmthaw my\\040name rw,user_id=0\n"
        "43 27 0:40 / /tmp/x rw shared:7 master:2 - fuse.vmthaw none rw\n");
    ASSERT_EQ(entries.size(), 3U);
    EXPECT_EQ(entries[0].id, 22U);
    EXPECT_EQ(entries[0].device_major, 254U);
    EXPECT_EQ(entries[1].mount_point, "/tmp/a b\tc\\d");
    EXPECT_EQ(entries[1].device_minor, 39U);
    EXPECT_EQ(entries[1].type, "fuse.vmthaw");
    EXPECT_EQ(entries[1].source, "my name");
    EXPECT_EQ(entries[2].type, "fuse.vmthaw");
}

TEST(MountTable, LeavesOutWhatIsNoMount) {
    EXPECT_TRUE(parse_mount_table("").empty());
    EXPECT_TRUE(parse_mount_table("\n\n").empty());
    EXPECT_TRUE(parse_mount_table("42 27 0:39 / /tmp/x rw,relatime").empty());
    EXPECT_TRUE(parse_mount_table("42 27 0:39 / /tmp/x rw - fuse").empty());
    EXPECT_TRUE(parse_mount_table("x 27 0:39 / /tmp/x rw - fuse none rw").empty());
    EXPECT_TRUE(parse_mount_table("42 27 039 / /tmp/x rw - fuse none rw").empty());
    EXPECT_TRUE(parse_mount_table("42 27 0:x / /tmp/x rw - fuse none rw").empty());
    const auto cut = parse_mount_table("42 27 0:39 / /tmp/x\\04 rw - fuse none rw");
    ASSERT_EQ(cut.size(), 1U);
    EXPECT_EQ(cut[0].mount_point, "/tmp/x\\04");
}

TEST(MountTable, KnowsTheRootAndNotWhatIsNoMountPoint) {
    const auto root = topmost_mount("/proc");
    ASSERT_TRUE(root.has_value());
    EXPECT_EQ(root->type, "proc");
    EXPECT_FALSE(topmost_mount("/proc/self").has_value());
}

}  // namespace
}  // namespace vmthaw
