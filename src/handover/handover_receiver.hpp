#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "handover/handover_framing.hpp"
#include "handover/handover_message.hpp"
#include "userfaultfd/userfaultfd.hpp"

struct msghdr;

namespace vmthaw {

enum class HandoverStatus : std::uint8_t { need_more, complete, failed };

// Why a hand-over was refused: the text for people, the field at fault ("" when there is none) and the Python class.
struct HandoverFailure {
    std::string text;
    std::string field;
    std::string class_name = "HandoverError";
};

// What one VMM handed over. The socket stays open for the VMM's life: its HUP tells of the VMM's death.
struct Handover {
    UniqueFd socket;
    Userfaultfd userfaultfd;
    std::vector<Region> regions;      // as sent: not checked against each other or a source yet
    std::size_t surplus_descriptors;  // received and closed
};

// Receives one hand-over from a connected UNIX stream socket without ever blocking: the message may come in any
// number of pieces, the descriptor with any of them. Owns the socket and whatever descriptors come; all are closed
// with it. One thread at a time. step() never throws; the deadline is the caller's.
class HandoverReceiver {
public:
    explicit HandoverReceiver(UniqueFd socket) noexcept : socket_(std::move(socket)) {}

    // To be called when the socket is readable or hung up. Reads all that is there. Final once not need_more.
    HandoverStatus step() noexcept;

    [[nodiscard]] HandoverStatus status() const noexcept { return status_; }
    [[nodiscard]] int fd() const noexcept { return socket_.get(); }
    // When failed.
    [[nodiscard]] const HandoverFailure& failure() const noexcept { return failure_; }
    // When complete, once. Throws StateError otherwise.
    [[nodiscard]] Handover take();
    // What has not come yet, as a sentence's end for the message of a time-out. When need_more.
    [[nodiscard]] std::string pending_problem() const;

private:
    enum class Receive : std::uint8_t { again, drained, ended };

    Receive receive_part();
    void collect_descriptors(msghdr& message);
    void finish_text();
    void finish_descriptor();
    void at_end_of_stream();
    void fail(std::string text, std::string field = {});
    [[nodiscard]] std::string received_so_far() const;

    UniqueFd socket_;
    UniqueFd descriptor_;
    std::optional<Userfaultfd> userfaultfd_;
    std::size_t surplus_ = 0;
    std::string text_;
    HandoverFraming framing_;
    std::vector<Region> regions_;
    HandoverStatus status_ = HandoverStatus::need_more;
    HandoverFailure failure_;
};

}  // namespace vmthaw
