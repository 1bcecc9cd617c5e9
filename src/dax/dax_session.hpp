#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/fork_guard.hpp"
#include "dax/dax_config.hpp"
#include "dax/dax_events.hpp"
#include "dax/dax_mapper.hpp"
#include "dax/dax_values.hpp"
#include "dax/held_lease.hpp"
#include "dax/range_reservations.hpp"
#include "dax/set_up_order.hpp"
#include "dax/window_map.hpp"
#include "filesystem/dax_backend.hpp"
#include "fuse_protocol/mapping_requests.hpp"

namespace vmthaw {

// A client's mappings: joins a backend, which turns file regions into leases, with a mapper, which puts them at guest
// addresses. Any thread, several at once. While both are C++ one lock is held over backend, mapper and record; when one
// is Python a request reserves its range, calls without the lock and then commits: requests for other ranges go on, for
// the same they wait (EBUSY from within the backend or mapper itself, EAGAIN after 10 s).
// Requests answer 0 or a positive errno; every lease goes back to the backend exactly once. Destroying the session
// releases everything; it must then be idle.
class DaxSession {
public:
    // Throws ArgumentError.
    DaxSession(std::shared_ptr<DaxBackend> backend, std::shared_ptr<DaxMapper> mapper, DaxConfig config);
    DaxSession(const DaxSession&) = delete;
    DaxSession& operator=(const DaxSession&) = delete;
    ~DaxSession();

    // What a SETUPMAPPING asks for. A mapping that it covers exactly is replaced, others are cut or split; if it fails
    // they survive. WRITE implies READ.
    [[nodiscard]] int set_up(std::uint64_t node, const SetupMappingIn& in) noexcept;
    // Makes a hole, whatever is mapped there and for whichever node. What lies there is gone even if this fails: the
    // mapper's error, else the backend's.
    [[nodiscard]] int remove(const RemoveMappingOne& one) noexcept;
    // All entries, also after one that failed; the first error.
    [[nodiscard]] int remove(const RemoveMappingEntries& entries) noexcept;
    // INIT, DESTROY, device reset: everything goes.
    [[nodiscard]] int reset() noexcept;
    // A reset, after which requests fail with ENODEV. EBUSY and EAGAIN mean that it was none.
    int close() noexcept;

    // Its number among the sessions of this process, from 1.
    [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
    [[nodiscard]] const DaxConfig& config() const noexcept { return config_; }
    // log2 of the granule: what INIT advertises as map_alignment.
    [[nodiscard]] std::uint16_t map_alignment() const noexcept;
    // Mappings and pieces of mappings that are live.
    [[nodiscard]] std::size_t active_slot_count() const;
    [[nodiscard]] std::vector<DaxMapping> mappings() const;  // by address
    [[nodiscard]] std::vector<DaxMapping> mapped_ranges(std::uint64_t node) const;
    [[nodiscard]] std::optional<DaxMapping> mapping_at(std::uint64_t guest_address) const;
    // What of them lies past the end of their file, as it is now: what an exit without an address may be about.
    [[nodiscard]] std::vector<DaxMapping> past_end() const;
    [[nodiscard]] DaxStats stats() const;
    [[nodiscard]] const std::shared_ptr<DaxEvents>& events() const noexcept { return events_; }
    // Throws ForkedError in a forked child.
    void check_process() const { guard_.check("this DaxSession"); }

private:
    class Turn;
    [[nodiscard]] int set_up_in_turn(Turn& turn, std::uint64_t node, const SetupMappingIn& in,
                                     DaxEventKind& kind) noexcept;
    [[nodiscard]] int map_lease(Turn& turn, const HeldLease& held) noexcept;
    void restore(Turn& turn, const WindowRange& range) noexcept;
    [[nodiscard]] int make_room(Turn& turn, const WindowRange& range) noexcept;
    [[nodiscard]] bool evict(Turn& turn, const HeldLease& victim, const WindowRange& range) noexcept;
    // Unmaps what is mapped in the range, of one lease only if `only` says so: pieces, and the first errors.
    struct Cleared {
        std::size_t pieces = 0;
        int mapper_error = 0;
        int backend_error = 0;
        [[nodiscard]] int error() const noexcept { return mapper_error != 0 ? mapper_error : backend_error; }
    };
    [[nodiscard]] Cleared clear(Turn& turn, const WindowRange& range, const HeldLease* only) noexcept;
    [[nodiscard]] int release(Turn& turn, std::unique_ptr<HeldLease> dead) noexcept;
    [[nodiscard]] int give_back(Turn& turn, const HeldLease& held) noexcept;
    [[nodiscard]] int clear_all(bool closing) noexcept;
    [[nodiscard]] int refuse_if_gone() const noexcept;
    [[nodiscard]] DaxMapping describe(const WindowMap::Found& found) const noexcept;
    [[nodiscard]] bool is_watched() const noexcept;
    [[nodiscard]] DaxMapping place(const WindowRange& range) const noexcept;
    void tell(DaxEventKind kind, std::uint64_t start_ns, const DaxMapping& what, int error) noexcept;

    ForkGuard guard_;
    const std::shared_ptr<DaxBackend> backend_;
    const std::shared_ptr<DaxMapper> mapper_;
    const DaxConfig config_;
    const bool calls_python_;
    const std::uint32_t id_;
    const std::shared_ptr<DaxEvents> events_;
    mutable std::mutex mutex_;
    RangeReservations reservations_;
    WindowMap map_;
    SetUpOrder order_;
    DaxStats stats_;
    bool closed_ = false;
};

}  // namespace vmthaw
