#pragma once

#include <cstdint>

#include "filesystem/lease.hpp"

namespace vmthaw {

// Permission bits of a mapping: the reverse of the wire's (WRITE 1, READ 2).
inline constexpr std::uint32_t kDaxRead = 1;
inline constexpr std::uint32_t kDaxWrite = 2;

// The half of a file system that turns a region of a file into a lease. Called by any thread, by several at once;
// answers are 0 or a positive errno.
class DaxBackend {
public:
    DaxBackend() = default;
    DaxBackend(const DaxBackend&) = delete;
    DaxBackend& operator=(const DaxBackend&) = delete;
    virtual ~DaxBackend() = default;

    // `handle` is the client's file handle, or all ones: map by node (Linux always does). `prot`: kDaxRead, kDaxWrite.
    [[nodiscard]] virtual int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                                      std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept = 0;
    [[nodiscard]] virtual int dax_unmap(const Lease& lease) noexcept = 0;
    // Whether all it gives are regular files or memfds, which it has looked at itself when it opened them: a session
    // then saves the fstat() of each lease, which costs as much as all else it does.
    [[nodiscard]] virtual bool gives_regular_files() const noexcept { return false; }
    // A Python backend: nobody may hold a lock while it is called.
    [[nodiscard]] virtual bool takes_gil() const noexcept { return false; }
};

}  // namespace vmthaw
