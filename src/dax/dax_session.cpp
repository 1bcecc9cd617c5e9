#include "dax/dax_session.hpp"

#include <atomic>
#include <bit>
#include <cerrno>
#include <new>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "dax/dax_check.hpp"
#include "dax/dax_log.hpp"
#include "dax/dax_turn.hpp"

namespace vmthaw {
namespace {

std::atomic<std::uint32_t> g_next_session_id{1};

std::uint32_t prot_of(const SetupMappingIn& in) noexcept {
    return kDaxRead | ((in.flags & kSetupMappingWrite) != 0 ? kDaxWrite : 0);
}

std::unique_ptr<HeldLease> make_held(std::uint64_t node, const SetupMappingIn& in) noexcept {
    try {
        auto held = std::make_unique<HeldLease>();
        held->node = node;
        held->window_offset = in.window_offset;
        held->length_bytes = in.length_bytes;
        held->file_offset = in.file_offset;
        held->prot = prot_of(in);
        return held;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

}  // namespace

DaxSession::DaxSession(std::shared_ptr<DaxBackend> backend, std::shared_ptr<DaxMapper> mapper, DaxConfig config)
    : backend_(std::move(backend)),
      mapper_(std::move(mapper)),
      config_(checked(config)),
      calls_python_(backend_ && mapper_ && (backend_->takes_gil() || mapper_->takes_gil())),
      id_(g_next_session_id.fetch_add(1)),
      events_(std::make_shared<DaxEvents>()) {
    if (!backend_ || !mapper_) {
        throw ArgumentError("a DAX session needs a backend and a mapper");
    }
}

DaxSession::~DaxSession() {
    if (!guard_.inherited()) {
        close();
    }
    events_->end();
}

std::uint16_t DaxSession::map_alignment() const noexcept {
    return static_cast<std::uint16_t>(std::countr_zero(config_.granule_bytes));
}

int DaxSession::refuse_if_gone() const noexcept { return guard_.inherited() ? ENODEV : 0; }

bool DaxSession::is_watched() const noexcept { return events_->is_on() || dax_log_is_on(); }

DaxMapping DaxSession::place(const WindowRange& range) const noexcept {
    return {config_.guest_base + range.start, range.start, range.length, 0, 0, 0, 0};
}

void DaxSession::tell(DaxEventKind kind, std::uint64_t start_ns, const DaxMapping& what, int error) noexcept {
    const DaxRecord event{start_ns,
                          monotonic_ns(),
                          what.guest_address,
                          what.window_offset,
                          what.length_bytes,
                          what.node,
                          what.file_offset,
                          id_,
                          static_cast<std::int16_t>(error),
                          kind,
                          static_cast<std::uint8_t>(what.prot)};
    events_->record(event);
    if (dax_log_is_on()) {
        log_dax_event(event);
    }
}

int DaxSession::set_up(std::uint64_t node, const SetupMappingIn& in) noexcept {
    const bool watched = is_watched();
    const std::uint64_t start_ns = watched ? monotonic_ns() : 0;
    DaxEventKind kind = DaxEventKind::set_up;
    int error = refuse_if_gone();
    if (error != 0) {
        return error;
    }
    const WindowRange range{in.window_offset, in.length_bytes};
    // Within the turn, so that events of ranges that overlap come in the order of what happened.
    const auto tell_set_up = [&] {
        if (watched) {
            DaxMapping what = place(range);
            what.node = node;
            what.file_offset = in.file_offset;
            what.prot = prot_of(in);
            tell(kind, start_ns, what, error);
        }
    };
    error = check_set_up(config_, in);
    if (error == 0) {
        Turn turn(*this, range);
        error = turn.error() != 0 ? turn.error() : set_up_in_turn(turn, node, in, kind);
        stats_.failed += error != 0 ? 1 : 0;
        tell_set_up();
    } else {
        const std::lock_guard lock(mutex_);
        ++stats_.failed;
        tell_set_up();
    }
    return error;
}

int DaxSession::set_up_in_turn(Turn& turn, std::uint64_t node, const SetupMappingIn& in, DaxEventKind& kind) noexcept {
    const WindowRange range{in.window_offset, in.length_bytes};
    std::unique_ptr<HeldLease> held = make_held(node, in);
    if (!held || !turn.take_spares()) {
        return ENOMEM;
    }
    if (const int error = make_room(turn, range); error != 0) {
        return error;
    }
    int error = turn.call(
        [&] { return backend_->dax_map(node, in.handle, in.file_offset, in.length_bytes, held->prot, held->lease); });
    if (error != 0) {
        return error;
    }
    ++stats_.leases_taken;
    error = map_lease(turn, *held);
    if (error != 0) {
        // Only what this request took: the mapper and the record are as they were.
        static_cast<void>(give_back(turn, *held));
        return error;
    }
    const bool exact = map_.is_exact(range);
    std::unique_ptr<HeldLease> dead;
    if (exact || !map_.is_hole(range)) {
        ++(exact ? stats_.replaced : stats_.overlapped);
        kind = DaxEventKind::replace;
        map_.carve(range, turn.spares, dead);
    }
    order_.add(*held);
    map_.insert(range, std::move(held), turn.spares);
    ++stats_.set_ups;
    // The new mapping stands; what the backend says about the old one's end is its own affair.
    static_cast<void>(release(turn, std::move(dead)));
    return 0;
}

int DaxSession::map_lease(Turn& turn, const HeldLease& held) noexcept {
    const WindowRange range{held.window_offset, held.length_bytes};
    if (const int error = check_lease(held.lease, range.length, backend_->gives_regular_files()); error != 0) {
        return error;
    }
    const int error = turn.call([&] {
        return mapper_->map(config_.guest_base + range.start, held.part(range.start, range.length), held.prot);
    });
    if (error != 0) {
        restore(turn, range);
    }
    return error;
}

void DaxSession::restore(Turn& turn, const WindowRange& range) noexcept {
    for (std::uint64_t at = range.start; at < range.end();) {
        const auto found = map_.find_first({at, range.end() - at});
        if (!found) {
            return;
        }
        const HeldLease& held = *found->held;
        const std::uint64_t start_ns = is_watched() ? monotonic_ns() : 0;
        const int error = turn.call([&] {
            return mapper_->restore(config_.guest_base + found->range.start,
                                    held.part(found->range.start, found->range.length), held.prot);
        });
        if (error != 0) {
            ++stats_.lost;
            if (start_ns != 0) {
                tell(DaxEventKind::lost, start_ns, describe(*found), error);
            }
            std::unique_ptr<HeldLease> dead;
            map_.carve(found->range, turn.spares, dead);
            static_cast<void>(release(turn, std::move(dead)));
        }
        at = found->range.end();
    }
}

int DaxSession::remove(const RemoveMappingOne& one) noexcept {
    const bool watched = is_watched();
    const std::uint64_t start_ns = watched ? monotonic_ns() : 0;
    int error = refuse_if_gone();
    if (error != 0) {
        return error;
    }
    const WindowRange range{one.window_offset, one.length_bytes};
    const auto tell_remove = [&] {
        if (watched) {
            tell(DaxEventKind::remove, start_ns, place(range), error);
        }
    };
    error = check_remove(config_, one);
    if (error == 0) {
        Turn turn(*this, range);
        error = turn.error();
        if (error == 0 && !turn.take_spares()) {
            error = ENOMEM;
        }
        if (error == 0) {
            const Cleared cleared = clear(turn, range, nullptr);
            error = cleared.error();
            stats_.holes += cleared.pieces == 0 ? 1 : 0;
        }
        ++(error == 0 ? stats_.removes : stats_.failed);
        tell_remove();
    } else {
        const std::lock_guard lock(mutex_);
        ++stats_.failed;
        tell_remove();
    }
    return error;
}

int DaxSession::remove(const RemoveMappingEntries& entries) noexcept {
    int first = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const int error = remove(entries.at(i));
        first = first != 0 ? first : error;
    }
    return first;
}

int DaxSession::clear_all(bool closing) noexcept {
    if (const int error = refuse_if_gone(); error != 0) {
        return error;
    }
    const bool watched = is_watched();
    const std::uint64_t start_ns = watched ? monotonic_ns() : 0;
    const WindowRange window{0, config_.window_bytes};
    Turn turn(*this, window);
    int error = turn.error();
    if (error == 0) {
        error = clear(turn, window, nullptr).error();
        closed_ = closing;
        ++stats_.resets;
    }
    if (watched && error != ENODEV) {
        tell(DaxEventKind::reset, start_ns, place(window), error);
    }
    return error;
}

int DaxSession::reset() noexcept { return clear_all(false); }

int DaxSession::close() noexcept { return clear_all(true); }

}  // namespace vmthaw
