#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/unique_fd.hpp"
#include "dax/dax_config.hpp"
#include "dax/dax_mapper.hpp"
#include "dax/dax_values.hpp"
#include "filesystem/dax_backend.hpp"
#include "fuse_protocol/mapping_requests.hpp"

// A DAX session's double, granule by granule, and a backend and a mapper that keep account: shared by the property test
// and the fuzz target.
namespace vmthaw::oracle {

inline constexpr std::uint64_t kNodes = 4;  // 1 to 4 are files

// What lies at one granule.
struct Cell {
    std::uint64_t node = 0;  // 0: a hole
    std::uint64_t file_offset = 0;
    bool writes = false;

    bool operator==(const Cell&) const = default;
};

class Backend final : public DaxBackend {
public:
    Backend() {
        for (std::uint64_t node = 1; node <= kNodes; ++node) {
            files_[node] = UniqueFd(::memfd_create("oracle", MFD_CLOEXEC));
        }
    }
    int fail_next_map = 0;
    int fail_next_unmap = 0;
    std::uint64_t wrong = 0;  // leases that came back and were not out
    std::set<std::uint64_t> out;

    [[nodiscard]] int fd(std::uint64_t node) const { return files_.at(node).get(); }
    [[nodiscard]] int dax_map(std::uint64_t node, std::uint64_t, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                              std::uint32_t, Lease& lease) noexcept override {
        if (const int error = std::exchange(fail_next_map, 0); error != 0) {
            return error;
        }
        const auto found = files_.find(node);
        if (found == files_.end()) {
            return ENOENT;
        }
        // The node in the token: the mapper below then knows whose bytes it maps.
        lease = {found->second.get(), offset_bytes, length_bytes, ++count_ * (kNodes + 1) + node};
        out.insert(lease.token);
        return 0;
    }
    [[nodiscard]] int dax_unmap(const Lease& lease) noexcept override {
        wrong += out.erase(lease.token) == 0 ? 1 : 0;
        return std::exchange(fail_next_unmap, 0);
    }

private:
    std::map<std::uint64_t, UniqueFd> files_;
    std::uint64_t count_ = 0;
};

class Mapper final : public DaxMapper {
public:
    explicit Mapper(const DaxConfig& config) : config_(config), cells(config.window_bytes / config.granule_bytes) {}
    int fail_next_map = 0;
    int fail_next_unmap = 0;
    std::uint64_t wrong = 0;  // calls outside the window, and holes that were unmapped

private:
    DaxConfig config_;

public:
    std::vector<Cell> cells;

    [[nodiscard]] int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override {
        const std::uint64_t first = index(guest_address, lease.length_bytes);
        const int error = std::exchange(fail_next_map, 0);
        // As an mmap() of kernels before 6.12 may: what was there is gone, and restore() is asked for it.
        for (std::uint64_t i = 0; i < lease.length_bytes / config_.granule_bytes && first + i < cells.size(); ++i) {
            cells[first + i] = error != 0
                                   ? Cell{}
                                   : Cell{lease.token % (kNodes + 1), lease.offset_bytes + i * config_.granule_bytes,
                                          (prot & kDaxWrite) != 0};
        }
        return error;
    }
    [[nodiscard]] int restore(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override {
        return map(guest_address, lease, prot);
    }
    [[nodiscard]] int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept override {
        const std::uint64_t first = index(guest_address, length_bytes);
        for (std::uint64_t i = 0; i < length_bytes / config_.granule_bytes && first + i < cells.size(); ++i) {
            wrong += cells[first + i].node == 0 ? 1 : 0;
            cells[first + i] = {};
        }
        return std::exchange(fail_next_unmap, 0);
    }

private:
    [[nodiscard]] std::uint64_t index(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept {
        const bool inside = guest_address >= config_.guest_base &&
                            guest_address - config_.guest_base < config_.window_bytes && length_bytes > 0 &&
                            length_bytes <= config_.window_bytes - (guest_address - config_.guest_base);
        wrong += inside ? 0 : 1;
        return inside ? (guest_address - config_.guest_base) / config_.granule_bytes : cells.size();
    }
};

// What a session has to answer and to hold; the arithmetic is done in 128 bits, where nothing wraps.
class Window {
public:
    explicit Window(const DaxConfig& config)
        : config_(config), cells_(config.window_bytes / config.granule_bytes), owners_(cells_.size()) {}

    [[nodiscard]] const std::vector<Cell>& cells() const { return cells_; }
    [[nodiscard]] std::size_t leases() const {
        std::set<std::uint64_t> distinct(owners_.begin(), owners_.end());
        distinct.erase(0);
        return distinct.size();
    }

    // `backend` and `mapper`: what these will answer, once asked.
    int set_up(std::uint64_t node, const SetupMappingIn& in, int backend, int mapper) {
        constexpr Wide kLast = (Wide{1} << 63U) - 1;
        if (in.flags < 1 || in.flags > 3 || in.file_offset % config_.granule_bytes != 0 ||
            !fits(in.window_offset, in.length_bytes) || Wide{in.file_offset} + in.length_bytes > kLast) {
            return EINVAL;
        }
        if (config_.read_only && in.flags != kSetupMappingRead) {
            return EROFS;
        }
        const auto first = in.window_offset / config_.granule_bytes;
        const auto last = first + in.length_bytes / config_.granule_bytes;
        if (!make_room(first, last)) {
            return ENOSPC;
        }
        if (backend != 0) {
            return backend;
        }
        if (node < 1 || node > kNodes) {
            return ENOENT;
        }
        if (mapper != 0) {
            return mapper;
        }
        ++serial_;
        for (auto i = first; i < last; ++i) {
            cells_[i] = {node, in.file_offset + (i - first) * config_.granule_bytes, in.flags != kSetupMappingRead};
            owners_[i] = serial_;
        }
        return 0;
    }
    // Answers of mapper and backend for the first piece that is unmapped; `used`: whether there was one.
    int remove(const RemoveMappingOne& one, int mapper, int backend, bool& used, bool& released) {
        if (!fits(one.window_offset, one.length_bytes)) {
            return EINVAL;
        }
        const std::size_t before = leases();
        for (auto i = one.window_offset / config_.granule_bytes;
             i < (one.window_offset + one.length_bytes) / config_.granule_bytes; ++i) {
            used = used || owners_[i] != 0;
            clear(i);
        }
        released = leases() < before;
        return used && mapper != 0 ? mapper : released ? backend : 0;
    }
    void reset() {
        for (std::size_t i = 0; i < cells_.size(); ++i) {
            clear(i);
        }
    }
    // Whether a session's list is this.
    [[nodiscard]] bool agrees(const std::vector<DaxMapping>& mappings) const {
        std::vector<Cell> found(cells_.size());
        std::uint64_t end = 0;
        for (const DaxMapping& one : mappings) {
            if (one.window_offset < end || one.guest_address != config_.guest_base + one.window_offset ||
                !fits(one.window_offset, one.length_bytes)) {
                return false;
            }
            end = one.window_offset + one.length_bytes;
            for (std::uint64_t at = 0; at < one.length_bytes; at += config_.granule_bytes) {
                found[(one.window_offset + at) / config_.granule_bytes] = {one.node, one.file_offset + at,
                                                                           (one.prot & kDaxWrite) != 0};
            }
        }
        return found == cells_;
    }

private:
    __extension__ using Wide = unsigned __int128;
    [[nodiscard]] bool fits(std::uint64_t offset, std::uint64_t length) const {
        return length > 0 && offset % config_.granule_bytes == 0 && length % config_.granule_bytes == 0 &&
               Wide{offset} + length <= config_.window_bytes;
    }
    void clear(std::size_t i) {
        cells_[i] = {};
        owners_[i] = 0;
    }
    // As the quota wants it: whole mappings go, the oldest first, but for what is being replaced.
    bool make_room(std::size_t first, std::size_t last) {
        if (config_.quota_bytes == 0) {
            return true;
        }
        const std::uint64_t most = config_.quota_bytes / config_.granule_bytes;
        if (last - first > most) {
            return false;
        }
        for (;;) {
            std::uint64_t held = 0;
            std::uint64_t oldest = ~std::uint64_t{0};
            for (std::size_t i = 0; i < owners_.size(); ++i) {
                if (owners_[i] != 0 && (i < first || i >= last)) {
                    ++held;
                    oldest = std::min(oldest, owners_[i]);
                }
            }
            if (held <= most - (last - first)) {
                return true;
            }
            for (std::size_t i = 0; i < owners_.size(); ++i) {
                if (owners_[i] == oldest && (i < first || i >= last)) {
                    clear(i);
                }
            }
        }
    }

    DaxConfig config_;
    std::vector<Cell> cells_;
    std::vector<std::uint64_t> owners_;  // the set-up, by age; 0 in a hole
    std::uint64_t serial_ = 0;
};

}  // namespace vmthaw::oracle
