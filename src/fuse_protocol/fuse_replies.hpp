#pragma once

#include <array>
#include <cstdint>

#include "fuse_protocol/fuse_attributes.hpp"

// What FUSE replies are made of, beside the attributes. Source: include/uapi/linux/fuse.h of Linux 6.18.
namespace vmthaw {

struct FuseOutHeader {
    std::uint32_t len = 0;
    std::int32_t error = 0;  // 0 or a negative errno
    std::uint64_t unique = 0;
};
static_assert(sizeof(FuseOutHeader) == 16);

struct FuseInitOut {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    std::uint32_t max_readahead = 0;
    std::uint32_t flags = 0;
    std::uint16_t max_background = 0;
    std::uint16_t congestion_threshold = 0;
    std::uint32_t max_write = 0;
    std::uint32_t time_gran = 0;
    std::uint16_t max_pages = 0;
    std::uint16_t map_alignment = 0;  // log2, with kFuseMapAlignment
    std::uint32_t flags2 = 0;
    std::uint32_t max_stack_depth = 0;
    std::array<std::uint32_t, 6> unused{};
};
static_assert(sizeof(FuseInitOut) == 64);

struct FuseOpenOut {
    std::uint64_t fh = 0;
    std::uint32_t open_flags = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseOpenOut) == 16);

struct FuseWriteOut {
    std::uint32_t size = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseWriteOut) == 8);

struct FuseGetxattrOut {
    std::uint32_t size = 0;
    std::uint32_t padding = 0;
};
static_assert(sizeof(FuseGetxattrOut) == 8);

struct FuseLseekOut {
    std::uint64_t offset = 0;
};
static_assert(sizeof(FuseLseekOut) == 8);

struct FuseCopyFileRangeOut {
    std::uint64_t bytes_copied = 0;
};
static_assert(sizeof(FuseCopyFileRangeOut) == 8);

struct FuseDirent {
    std::uint64_t ino = 0;
    std::uint64_t off = 0;
    std::uint32_t namelen = 0;
    std::uint32_t type = 0;  // the name follows, then zeros up to a multiple of 8
};
static_assert(sizeof(FuseDirent) == 24);

struct FuseDirentPlus {
    FuseEntryOut entry_out;
    FuseDirent dirent;
};
static_assert(sizeof(FuseDirentPlus) == 152);

}  // namespace vmthaw
