#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "source/socket/page_read.hpp"
#include "source/socket/page_wire.hpp"

namespace vmthaw {

// What a peer's bytes were.
enum class ReplyVerdict : std::uint8_t { good, wrong_echo, refused };

// The client's side of the page-server wire without its socket: splits reads into requests of one page, keeps those in
// flight in order, says where the bytes of the replies belong, checks every echo and finishes reads. The peer is
// hostile: its bytes never move anything but the buffers of unanswered requests. Bounded; allocates at construction
// only. Externally locked, but for the buffers that targets() named.
class ReplyPipeline {
public:
    ReplyPipeline(std::uint64_t page_size, std::size_t max_in_flight);

    // Both page-aligned, not empty. The read stays the caller's and must not die before it is done.
    void add(PageRead& read) noexcept;
    [[nodiscard]] PageRead* first() const noexcept { return first_; }
    [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_; }

    // Requests to be sent now; they count as in flight from then on. Empty: nothing to send, or no room. What was given
    // stays valid, and is given again, until sent() took it.
    [[nodiscard]] std::span<const std::byte> to_send() noexcept;
    void sent(std::size_t bytes) noexcept { unsent_begin_ += bytes; }
    [[nodiscard]] bool has_unsent() const noexcept { return unsent_begin_ < unsent_end_; }

    // Where the next bytes from the peer belong, in order. Valid until received() or disconnected(). Empty: none.
    [[nodiscard]] std::span<iovec> targets() noexcept;
    // Takes note of bytes that lie there now. Reads whose last page came are finished; after anything but `good` the
    // connection must be dropped: the request at the front is at fault.
    [[nodiscard]] ReplyVerdict received(std::size_t bytes) noexcept;
    [[nodiscard]] std::optional<PageRequest> front() const noexcept;
    // What the peer sent instead of front()'s echo, after wrong_echo.
    [[nodiscard]] PageRequest wrong_echo() const noexcept { return decode(slots_[head_].header); }
    [[nodiscard]] std::uint64_t answered_pages() const noexcept { return answered_; }
    [[nodiscard]] std::uint64_t repeated_requests() const noexcept { return repeated_; }

    // The connection is gone: what was in flight is asked again, in order, but for the front: a page over which
    // connections break again and again goes behind the others.
    void disconnected() noexcept;
    // The read whose request is at the front; null without one.
    [[nodiscard]] PageRead* front_read() const noexcept { return in_flight_ > 0 ? slots_[head_].piece.read : nullptr; }
    // Finishes a read that has nothing in flight, or all of them while disconnected.
    void fail(PageRead& read, const ReadResult& result) noexcept;
    void fail_all(const ReadResult& result) noexcept;
    [[nodiscard]] bool is_in_flight(const PageRead& read) const noexcept;
    // How many connections ended with a request of this read at the front, unanswered. Only while disconnected.
    [[nodiscard]] std::uint32_t drops_of(const PageRead& read) const noexcept;

private:
    struct Piece {
        PageRead* read = nullptr;
        PageRequest request;
        std::byte* out = nullptr;
        std::uint32_t drops = 0;
    };
    struct Slot {
        Piece piece;
        PageRequestBytes header{};
    };

    [[nodiscard]] std::size_t slot_at(std::size_t index) const noexcept { return (head_ + index) % slots_.size(); }
    [[nodiscard]] std::optional<Piece> next_piece() noexcept;
    void unlink(PageRead& read) noexcept;

    std::uint64_t page_size_;
    std::vector<Slot> slots_;  // a ring
    std::size_t head_ = 0;
    std::size_t in_flight_ = 0;
    std::uint64_t head_bytes_ = 0;  // of the front's reply that have come
    std::vector<Piece> again_;      // to be asked again, in reverse order
    std::vector<std::byte> unsent_;
    std::size_t unsent_begin_ = 0;
    std::size_t unsent_end_ = 0;
    std::vector<iovec> targets_;
    PageRead* first_ = nullptr;
    PageRead* last_ = nullptr;
    std::uint64_t answered_ = 0;
    std::uint64_t repeated_ = 0;
};

}  // namespace vmthaw
