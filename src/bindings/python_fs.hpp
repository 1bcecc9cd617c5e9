#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/callee.hpp"
#include "filesystem/file_system.hpp"
#include "filesystem/path_nodes.hpp"

namespace vmthaw::bindings {

// A file system whose requests a Python callable answers, by path. Node ids, look-up counts and handles are kept here,
// so that forgets never see Python. Called by threads of Python's alone (takes_gil()); no lock is held while it is
// taken. The callable is given (operation, unique, uid, gid, pid, arguments...) and gives back (errno, answer); it
// raises nothing.
class PythonFs final : public FileSystem {
public:
    explicit PythonFs(py::object call) noexcept : call_(std::move(call)) {}

    [[nodiscard]] bool takes_gil() const noexcept override { return true; }
    [[nodiscard]] int init(InitTerms& terms) noexcept override;
    void destroy() noexcept override;
    void forget(std::uint64_t node, std::uint64_t count) noexcept override;
    [[nodiscard]] int interrupt(std::uint64_t unique) noexcept override;
    [[nodiscard]] int lookup(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             NodeEntry& entry) noexcept override;
    [[nodiscard]] int getattr(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                              NodeAttributes& attributes) noexcept override;
    [[nodiscard]] int setattr(const FuseCaller& caller, std::uint64_t node, const FuseSetattrIn& change,
                              NodeAttributes& attributes) noexcept override;
    [[nodiscard]] int access(const FuseCaller& caller, std::uint64_t node, std::uint32_t mask) noexcept override;
    [[nodiscard]] int readlink(const FuseCaller& caller, std::uint64_t node, std::string& target) noexcept override;
    [[nodiscard]] int symlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                              std::string_view target, NodeEntry& entry) noexcept override;
    [[nodiscard]] int mknod(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                            const FuseMknodIn& request, NodeEntry& entry) noexcept override;
    [[nodiscard]] int mkdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                            const FuseMkdirIn& request, NodeEntry& entry) noexcept override;
    [[nodiscard]] int unlink(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept override;
    [[nodiscard]] int rmdir(const FuseCaller& caller, std::uint64_t parent, std::string_view name) noexcept override;
    [[nodiscard]] int rename(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             std::uint64_t new_parent, std::string_view new_name,
                             std::uint32_t flags) noexcept override;
    [[nodiscard]] int link(const FuseCaller& caller, std::uint64_t node, std::uint64_t new_parent,
                           std::string_view new_name, NodeEntry& entry) noexcept override;
    [[nodiscard]] int open(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                           OpenedFile& opened) noexcept override;
    [[nodiscard]] int create(const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                             const FuseCreateIn& request, NodeEntry& entry, OpenedFile& opened) noexcept override;
    [[nodiscard]] int read(const FuseCaller& caller, std::uint64_t node, const FuseReadIn& request,
                           ReadAnswer& answer) noexcept override;
    [[nodiscard]] int write(const FuseCaller& caller, std::uint64_t node, const FuseWriteIn& request,
                            std::span<const std::byte> data, std::uint32_t& written_bytes) noexcept override;
    [[nodiscard]] int flush(const FuseCaller& caller, std::uint64_t node, const FuseFlushIn& request) noexcept override;
    [[nodiscard]] int release(const FuseCaller& caller, std::uint64_t node,
                              const FuseReleaseIn& request) noexcept override;
    [[nodiscard]] int fsync(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle,
                            bool data_only) noexcept override;
    [[nodiscard]] int fallocate(const FuseCaller& caller, std::uint64_t node,
                                const FuseFallocateIn& request) noexcept override;
    [[nodiscard]] int lseek(const FuseCaller& caller, std::uint64_t node, const FuseLseekIn& request,
                            std::uint64_t& offset_bytes) noexcept override;
    [[nodiscard]] int copy_file_range(const FuseCaller& caller, std::uint64_t node, const FuseCopyFileRangeIn& request,
                                      std::uint64_t& copied_bytes) noexcept override;
    [[nodiscard]] int opendir(const FuseCaller& caller, std::uint64_t node, const FuseOpenIn& request,
                              OpenedFile& opened) noexcept override;
    [[nodiscard]] int readdir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                              bool plus, DirectoryWriter& writer) noexcept override;
    [[nodiscard]] int releasedir(const FuseCaller& caller, std::uint64_t node, std::uint64_t handle) noexcept override;
    [[nodiscard]] int setxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                               std::span<const std::byte> value, std::uint32_t flags) noexcept override;
    [[nodiscard]] int getxattr(const FuseCaller& caller, std::uint64_t node, std::string_view name,
                               std::string& value) noexcept override;
    [[nodiscard]] int listxattr(const FuseCaller& caller, std::uint64_t node, std::string& names) noexcept override;
    [[nodiscard]] int removexattr(const FuseCaller& caller, std::uint64_t node,
                                  std::string_view name) noexcept override;
    [[nodiscard]] int statfs(const FuseCaller& caller, std::uint64_t node, FuseStatfs& statfs) noexcept override;
    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override;
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override;
    [[nodiscard]] std::uint64_t held_nodes() const noexcept override { return nodes_.held(); }
    [[nodiscard]] std::uint64_t open_handles() const noexcept override;

private:
    struct Listed {
        std::string name;
        std::uint32_t type = 0;
        std::optional<FuseAttr> attr;
    };
    // Shared, so that it is read without the lock.
    struct Listing {
        std::vector<Listed> entries;
        std::uint64_t changes = 0;  // as many there had been before the file system was asked
        std::uint64_t taken_ns = 0;
    };
    struct Handle {
        std::uint64_t node = 0;
        bool directory = false;
        std::shared_ptr<const Listing> listing;  // of the last readdir from the beginning
    };

    // Asks the callable with the GIL; `use` reads the answer, still with it. What fails on the way is EIO.
    template <typename Use, typename... Arguments>
    [[nodiscard]] int ask(const char* operation, const FuseCaller& caller, Use use,
                          const Arguments&... arguments) noexcept;
    // The same, where only the errno is of interest.
    template <typename... Arguments>
    [[nodiscard]] int tell(const char* operation, const FuseCaller& caller, const Arguments&... arguments) noexcept;
    // For an operation that makes `name` there: its attributes come back, and a node for it.
    template <typename... Arguments>
    [[nodiscard]] int make(const char* operation, const FuseCaller& caller, std::uint64_t parent, std::string_view name,
                           NodeEntry& entry, const Arguments&... arguments) noexcept;
    // The path of a node whose handle is open, too.
    [[nodiscard]] int path_of(std::uint64_t node, std::uint64_t handle, std::string& path) const noexcept;
    [[nodiscard]] int add_handle(std::uint64_t node, bool directory, std::uint64_t& handle) noexcept;
    [[nodiscard]] int check_handle(std::uint64_t node, std::uint64_t handle, bool directory) const noexcept;
    void drop_handle(std::uint64_t handle) noexcept;
    [[nodiscard]] int list(const FuseCaller& caller, const std::string& path, std::uint64_t handle) noexcept;
    // Whether what the listing says of its files can be given to a client still: nothing was changed since, by it.
    [[nodiscard]] bool is_fresh(const Listing& listing) const noexcept;
    // false: it did not fit.
    [[nodiscard]] bool add_entry(std::uint64_t directory, const Listed& listed, bool fresh, std::uint64_t next_offset,
                                 DirectoryWriter& writer) noexcept;
    // After whatever may have changed a name or an attribute, before its reply.
    int changed(int error) noexcept {
        changes_.fetch_add(1);
        return error;
    }

    CalleeReference call_;
    PathNodes nodes_;
    std::atomic<std::uint64_t> changes_ = 0;  // requests that may have changed names or attributes
    std::atomic<std::uint64_t> next_lease_ = 1;
    mutable std::mutex mutex_;  // of what follows
    std::unordered_map<std::uint64_t, Handle> handles_;
    std::uint64_t next_handle_ = 1;
};

}  // namespace vmthaw::bindings
