#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "dax/dax_session.hpp"
#include "dax/recording_mapper.hpp"
#include "filesystem/dax_backend.hpp"

namespace vmthaw {

inline constexpr std::uint64_t kChunk = 2U << 20U;  // Linux's FUSE_DAX_SZ
inline constexpr std::uint64_t kBase = 0x80'0000'0000;

inline UniqueFd memory_file(std::uint64_t bytes) {
    UniqueFd fd(check_errno(::memfd_create("dax", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create"));
    check_errno(::ftruncate(fd.get(), static_cast<off_t>(bytes)), "ftruncate");
    return fd;
}

// Files by node id, and an account of leases: each has to come back exactly once.
class LedgerBackend : public DaxBackend {
public:
    explicit LedgerBackend(bool takes_gil = false) : takes_gil_(takes_gil) {}

    int add(std::uint64_t node, std::uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        return (files_[node] = memory_file(bytes)).get();
    }
    void add(std::uint64_t node, UniqueFd fd) {
        const std::lock_guard lock(mutex_);
        files_[node] = std::move(fd);
    }
    void fail_next_map(int error) { map_error_ = error; }
    void fail_next_unmap(int error) { unmap_error_ = error; }
    // Once, without a lock held.
    void on_map(std::function<void()> call) { on_map_ = std::move(call); }

    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t handle, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, std::uint32_t prot, Lease& lease) noexcept override {
        std::unique_lock lock(mutex_);
        if (const auto call = std::exchange(on_map_, {})) {
            lock.unlock();
            call();
            lock.lock();
        }
        last_prot_ = prot;
        last_handle_ = handle;
        if (const int error = std::exchange(map_error_, 0); error != 0) {
            return error;
        }
        const auto found = files_.find(node);
        if (found == files_.end()) {
            return ENOENT;
        }
        lease = {found->second.get(), offset_bytes, length_bytes, ++tokens_};
        out_.insert(tokens_);
        return 0;
    }
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override {
        const std::lock_guard lock(mutex_);
        if (out_.erase(lease.token) == 0) {
            ADD_FAILURE() << "lease " << lease.token << " came back twice, or was never given";
        }
        return std::exchange(unmap_error_, 0);
    }
    [[nodiscard]] bool takes_gil() const noexcept override { return takes_gil_; }

    [[nodiscard]] std::size_t out() const {
        const std::lock_guard lock(mutex_);
        return out_.size();
    }
    [[nodiscard]] std::uint64_t given() const { return tokens_; }
    [[nodiscard]] std::uint32_t last_prot() const { return last_prot_; }
    [[nodiscard]] std::uint64_t last_handle() const { return last_handle_; }

private:
    bool takes_gil_;
    mutable std::mutex mutex_;
    std::map<std::uint64_t, UniqueFd> files_;
    std::set<std::uint64_t> out_;
    std::uint64_t tokens_ = 0;
    std::uint32_t last_prot_ = 0;
    std::uint64_t last_handle_ = 0;
    int map_error_ = 0;
    int unmap_error_ = 0;
    std::function<void()> on_map_;
};

inline SetupMappingIn set_up_of(std::uint64_t window_offset, std::uint64_t file_offset, std::uint64_t length,
                                std::uint64_t flags = kSetupMappingRead) {
    return {~std::uint64_t{0}, file_offset, length, flags, window_offset};
}
inline constexpr std::uint64_t kReadWrite = kSetupMappingRead | kSetupMappingWrite;

// A session over files and a mapper that records.
struct RecordedSession {
    explicit RecordedSession(const DaxConfig& config = {.guest_base = kBase, .window_bytes = 64 * kChunk},
                             bool takes_gil = false)
        : backend(std::make_shared<LedgerBackend>(takes_gil)), session(backend, mapper, config) {
        backend->add(1, 16 * kChunk);
        backend->add(2, 16 * kChunk);
    }

    std::shared_ptr<LedgerBackend> backend;
    std::shared_ptr<RecordingMapper> mapper = std::make_shared<RecordingMapper>();
    DaxSession session;
};

}  // namespace vmthaw
