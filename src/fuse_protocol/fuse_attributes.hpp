#pragma once

#include <array>
#include <cstdint>

// What FUSE replies say about files, as it goes over the wire. Source: include/uapi/linux/fuse.h of Linux 6.18.
namespace vmthaw {

struct FuseAttr {
    std::uint64_t ino = 0;
    std::uint64_t size = 0;
    std::uint64_t blocks = 0;  // of 512 bytes
    std::uint64_t atime = 0;
    std::uint64_t mtime = 0;
    std::uint64_t ctime = 0;
    std::uint32_t atimensec = 0;
    std::uint32_t mtimensec = 0;
    std::uint32_t ctimensec = 0;
    std::uint32_t mode = 0;
    std::uint32_t nlink = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t rdev = 0;
    std::uint32_t blksize = 0;
    std::uint32_t flags = 0;  // kFuseAttrDax
};
static_assert(sizeof(FuseAttr) == 88);

struct FuseAttrOut {
    std::uint64_t attr_valid = 0;
    std::uint32_t attr_valid_nsec = 0;
    std::uint32_t dummy = 0;
    FuseAttr attr;
};
static_assert(sizeof(FuseAttrOut) == 104);

struct FuseEntryOut {
    std::uint64_t nodeid = 0;
    std::uint64_t generation = 0;
    std::uint64_t entry_valid = 0;
    std::uint64_t attr_valid = 0;
    std::uint32_t entry_valid_nsec = 0;
    std::uint32_t attr_valid_nsec = 0;
    FuseAttr attr;
};
static_assert(sizeof(FuseEntryOut) == 128);

struct FuseStatfs {
    std::uint64_t blocks = 0;
    std::uint64_t bfree = 0;
    std::uint64_t bavail = 0;
    std::uint64_t files = 0;
    std::uint64_t ffree = 0;
    std::uint32_t bsize = 0;
    std::uint32_t namelen = 0;
    std::uint32_t frsize = 0;
    std::uint32_t padding = 0;
    std::array<std::uint32_t, 6> spare{};
};
static_assert(sizeof(FuseStatfs) == 80);

struct FuseStatxTime {
    std::int64_t tv_sec = 0;
    std::uint32_t tv_nsec = 0;
    std::int32_t reserved = 0;
};
static_assert(sizeof(FuseStatxTime) == 16);

struct FuseStatx {
    std::uint32_t mask = 0;
    std::uint32_t blksize = 0;
    std::uint64_t attributes = 0;
    std::uint32_t nlink = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint16_t mode = 0;
    std::uint16_t spare0 = 0;
    std::uint64_t ino = 0;
    std::uint64_t size = 0;
    std::uint64_t blocks = 0;
    std::uint64_t attributes_mask = 0;
    FuseStatxTime atime;
    FuseStatxTime btime;
    FuseStatxTime ctime;
    FuseStatxTime mtime;
    std::uint32_t rdev_major = 0;
    std::uint32_t rdev_minor = 0;
    std::uint32_t dev_major = 0;
    std::uint32_t dev_minor = 0;
    std::array<std::uint64_t, 14> spare2{};
};
static_assert(sizeof(FuseStatx) == 256);

struct FuseStatxOut {
    std::uint64_t attr_valid = 0;
    std::uint32_t attr_valid_nsec = 0;
    std::uint32_t flags = 0;
    std::array<std::uint64_t, 2> spare{};
    FuseStatx stat;
};
static_assert(sizeof(FuseStatxOut) == 288);

}  // namespace vmthaw
