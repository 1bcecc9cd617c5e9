#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/unique_fd.hpp"
#include "filesystem/dax_backend.hpp"

namespace vmthaw {

// Files of the host by number, for a DAX session without a file system: regular files and memfds. A path is opened for
// reading at once, and for writing when the first mapping asks for that. Any thread.
class HostFiles final : public DaxBackend {
public:
    // The node's number, from 1 on. Throw SystemError, and ArgumentError for what is no regular file.
    std::uint64_t add(const std::string& path, bool read_only = false);
    std::uint64_t add_descriptor(UniqueFd fd);
    // Closed when the last lease is back; its number is not given again. ENOENT for a number that is none.
    [[nodiscard]] int remove(std::uint64_t node) noexcept;

    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override;
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override;
    [[nodiscard]] bool gives_regular_files() const noexcept override { return true; }
    [[nodiscard]] std::size_t leases() const;

private:
    struct File {
        UniqueFd reading;
        UniqueFd writing;
        std::string path;  // empty for a descriptor
        bool read_only = false;
        bool removed = false;
        std::size_t leases = 0;
    };
    std::uint64_t add_file(File file);

    mutable std::mutex mutex_;
    std::map<std::uint64_t, File> files_;
    std::uint64_t last_node_ = 0;
    std::size_t leases_ = 0;
};

}  // namespace vmthaw
