#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/unique_fd.hpp"
#include "fuse_protocol/fuse_attributes.hpp"

namespace vmthaw {

// Leaves a time-out of the client's cache to the server's configuration.
inline constexpr std::uint64_t kServersTtl_ns = UINT64_MAX;

// Who asks. `unique` names the request until it is answered (interrupt).
struct FuseCaller {
    std::uint64_t unique = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t pid = 0;
};

struct NodeAttributes {
    FuseAttr attr;
    std::uint64_t attr_ttl_ns = kServersTtl_ns;
};

// A node given to the client: each one that it gets raises the node's look-up count by one. `node` 0 is the answer of
// lookup alone: "there is none, and you may remember that".
struct NodeEntry {
    std::uint64_t node = 0;
    std::uint64_t generation = 0;
    FuseAttr attr;
    std::uint64_t entry_ttl_ns = kServersTtl_ns;
    std::uint64_t attr_ttl_ns = kServersTtl_ns;
};

struct OpenedFile {
    std::uint64_t handle = 0;
    std::uint32_t open_flags = 0;  // kFopen...
};

// Bytes of a host file instead of a copy of them, for a transport that can splice. The descriptor lives as long as
// somebody holds it, so a release meanwhile closes nothing under the reader.
struct FileBytes {
    std::shared_ptr<const UniqueFd> file;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
};

// What read() answers with: `buffer` filled up to `length_bytes`, or, where `accepts_file`, `file_bytes`.
struct ReadAnswer {
    std::span<std::byte> buffer;
    std::size_t length_bytes = 0;
    bool accepts_file = false;
    FileBytes file_bytes;
};

// What INIT settles. The server proposes `wanted`; a file system adds and removes flags; what the client did not offer
// is dropped afterwards.
struct InitTerms {
    std::uint32_t minor = 0;
    std::uint64_t offered = 0;
    std::uint64_t wanted = 0;
    std::uint32_t max_readahead_bytes = 0;
    std::uint32_t max_write_bytes = 0;
    std::uint32_t time_granularity_ns = 1;
};

}  // namespace vmthaw
