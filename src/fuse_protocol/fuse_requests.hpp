#pragma once

#include <array>
#include <cstdint>

// What follows the header of each FUSE request, as it comes over the wire; names and data follow these. Source:
// include/uapi/linux/fuse.h of Linux 6.18.
namespace vmthaw {

struct FuseInHeader {
    std::uint32_t len = 0;
    std::uint32_t opcode = 0;
    std::uint64_t unique = 0;
    std::uint64_t nodeid = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t pid = 0;
    std::uint16_t total_extlen = 0;  // in units of 8 bytes, at the request's end
    std::uint16_t padding = 0;
};
static_assert(sizeof(FuseInHeader) == 40);

struct FuseInitIn {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    std::uint32_t max_readahead = 0;
    std::uint32_t flags = 0;
    std::uint32_t flags2 = 0;
    std::array<std::uint32_t, 11> unused{};
};
static_assert(sizeof(FuseInitIn) == 64);

struct FuseForgetIn {
    std::uint64_t nlookup = 0;
};
static_assert(sizeof(FuseForgetIn) == 8);

struct FuseForgetOne {
    std::uint64_t nodeid = 0;
    std::uint64_t nlookup = 0;
};
static_assert(sizeof(FuseForgetOne) == 16);

struct FuseBatchForgetIn {
    std::uint32_t count = 0;
    std::uint32_t dummy = 0;
};
static_assert(sizeof(FuseBatchForgetIn) == 8);

struct FuseGetattrIn {
    std::uint32_t getattr_flags = 0;
    std::uint32_t dummy = 0;
    std::uint64_t fh = 0;
};
static_assert(sizeof(FuseGetattrIn) == 16);

struct FuseSetattrIn {
    std::uint32_t valid = 0;
    std::uint32_t padding = 0;
    std::uint64_t fh = 0;
    std::uint64_t size = 0;
    std::uint64_t lock_owner = 0;
    std::uint64_t atime = 0;
    std::uint64_t mtime = 0;
    std::uint64_t ctime = 0;
    std::uint32_t atimensec = 0;
    std::uint32_t mtimensec = 0;
    std::uint32_t ctimensec = 0;
    std::uint32_t mode = 0;
    std::uint32_t unused4 = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t unused5 = 0;
};
static_assert(sizeof(FuseSetattrIn) == 88);

struct FuseMknodIn {
    std::uint32_t mode = 0;
    std::uint32_t rdev = 0;
    std::uint32_t umask = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseMknodIn) == 16);

struct FuseMkdirIn {
    std::uint32_t mode = 0;
    std::uint32_t umask = 0;
};
static_assert(sizeof(FuseMkdirIn) == 8);

struct FuseRenameIn {
    std::uint64_t newdir = 0;
};
static_assert(sizeof(FuseRenameIn) == 8);

struct FuseRename2In {
    std::uint64_t newdir = 0;
    std::uint32_t flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseRename2In) == 16);

struct FuseLinkIn {
    std::uint64_t oldnodeid = 0;
};
static_assert(sizeof(FuseLinkIn) == 8);

struct FuseOpenIn {
    std::uint32_t flags = 0;
    std::uint32_t open_flags = 0;
};
static_assert(sizeof(FuseOpenIn) == 8);

struct FuseCreateIn {
    std::uint32_t flags = 0;
    std::uint32_t mode = 0;
    std::uint32_t umask = 0;
    std::uint32_t open_flags = 0;
};
static_assert(sizeof(FuseCreateIn) == 16);

struct FuseReadIn {
    std::uint64_t fh = 0;
    std::uint64_t offset = 0;
    std::uint32_t size = 0;
    std::uint32_t read_flags = 0;
    std::uint64_t lock_owner = 0;
    std::uint32_t flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseReadIn) == 40);

struct FuseWriteIn {
    std::uint64_t fh = 0;
    std::uint64_t offset = 0;
    std::uint32_t size = 0;
    std::uint32_t write_flags = 0;
    std::uint64_t lock_owner = 0;
    std::uint32_t flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseWriteIn) == 40);

struct FuseReleaseIn {
    std::uint64_t fh = 0;
    std::uint32_t flags = 0;
    std::uint32_t release_flags = 0;
    std::uint64_t lock_owner = 0;
};
static_assert(sizeof(FuseReleaseIn) == 24);

struct FuseFlushIn {
    std::uint64_t fh = 0;
    std::uint32_t unused = 0;
    std::uint32_t padding = 0;
    std::uint64_t lock_owner = 0;
};
static_assert(sizeof(FuseFlushIn) == 24);

struct FuseFsyncIn {
    std::uint64_t fh = 0;
    std::uint32_t fsync_flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseFsyncIn) == 16);

struct FuseSetxattrIn {
    std::uint32_t size = 0;
    std::uint32_t flags = 0;
    std::uint32_t setxattr_flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseSetxattrIn) == 16);

struct FuseGetxattrIn {
    std::uint32_t size = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseGetxattrIn) == 8);

struct FuseAccessIn {
    std::uint32_t mask = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseAccessIn) == 8);

struct FuseInterruptIn {
    std::uint64_t unique = 0;
};
static_assert(sizeof(FuseInterruptIn) == 8);

struct FuseFallocateIn {
    std::uint64_t fh = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint32_t mode = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseFallocateIn) == 32);

struct FuseLseekIn {
    std::uint64_t fh = 0;
    std::uint64_t offset = 0;
    std::uint32_t whence = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseLseekIn) == 24);

struct FuseCopyFileRangeIn {
    std::uint64_t fh_in = 0;
    std::uint64_t off_in = 0;
    std::uint64_t nodeid_out = 0;
    std::uint64_t fh_out = 0;
    std::uint64_t off_out = 0;
    std::uint64_t len = 0;
    std::uint64_t flags = 0;
};
static_assert(sizeof(FuseCopyFileRangeIn) == 56);

struct FuseSyncfsIn {
    std::uint64_t padding = 0;
};
static_assert(sizeof(FuseSyncfsIn) == 8);

struct FuseStatxIn {
    std::uint32_t getattr_flags = 0;
    std::uint32_t reserved = 0;
    std::uint64_t fh = 0;
    std::uint32_t sx_flags = 0;
    std::uint32_t sx_mask = 0;
};
static_assert(sizeof(FuseStatxIn) == 24);

}  // namespace vmthaw
