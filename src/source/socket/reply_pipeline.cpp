#include "source/socket/reply_pipeline.hpp"

#include <algorithm>
#include <bit>

namespace vmthaw {
namespace {

constexpr std::size_t kPagesPerReceive = 64;  // two vectors each; the kernel takes 1024
constexpr std::uint32_t kPatientDrops = 2;

}  // namespace

ReplyPipeline::ReplyPipeline(std::uint64_t page_size, std::size_t max_in_flight)
    : page_size_(page_size), slots_(max_in_flight), unsent_(max_in_flight * kPageRequestBytes) {
    again_.reserve(max_in_flight);
    targets_.reserve(2 * std::min(max_in_flight, kPagesPerReceive));
}

void ReplyPipeline::add(PageRead& read) noexcept {
    (last_ == nullptr ? first_ : last_->next) = &read;
    last_ = &read;
}

void ReplyPipeline::unlink(PageRead& read) noexcept {
    PageRead* before = nullptr;
    for (PageRead* at = first_; at != nullptr; before = at, at = at->next) {
        if (at != &read) {
            continue;
        }
        (before == nullptr ? first_ : before->next) = read.next;
        if (last_ == &read) {
            last_ = before;
        }
        return;
    }
}

// The largest naturally aligned page that is left of the oldest read that has not asked for everything.
std::optional<ReplyPipeline::Piece> ReplyPipeline::next_piece() noexcept {
    if (!again_.empty()) {
        const Piece piece = again_.back();
        again_.pop_back();
        ++repeated_;
        return piece;
    }
    for (PageRead* read = first_; read != nullptr; read = read->next) {
        const std::uint64_t left = read->out.size() - read->asked_bytes;
        if (left == 0) {
            continue;
        }
        const std::uint64_t ipa = read->ipa + read->asked_bytes;
        const std::uint64_t alignment = ipa == 0 ? page_size_ : ipa & (~ipa + 1);
        const std::uint64_t size = std::min({page_size_, alignment, std::bit_floor(left)});
        const Piece piece{read, {ipa, size}, read->out.data() + read->asked_bytes};
        read->asked_bytes += size;
        return piece;
    }
    return std::nullopt;
}

std::span<const std::byte> ReplyPipeline::to_send() noexcept {
    if (!has_unsent()) {
        unsent_begin_ = 0;
        unsent_end_ = 0;
        while (in_flight_ < slots_.size()) {
            const std::optional<Piece> piece = next_piece();
            if (!piece) {
                break;
            }
            slots_[slot_at(in_flight_++)].piece = *piece;
            const PageRequestBytes bytes = encode(piece->request);
            std::copy(bytes.begin(), bytes.end(), unsent_.begin() + static_cast<std::ptrdiff_t>(unsent_end_));
            unsent_end_ += bytes.size();
        }
    }
    return std::span(unsent_).subspan(unsent_begin_, unsent_end_ - unsent_begin_);
}

std::span<iovec> ReplyPipeline::targets() noexcept {
    targets_.clear();
    std::uint64_t come = head_bytes_;
    for (std::size_t i = 0; i < std::min(in_flight_, kPagesPerReceive); ++i, come = 0) {
        Slot& slot = slots_[slot_at(i)];
        const std::uint64_t of_header = std::min<std::uint64_t>(come, kPageRequestBytes);
        const std::uint64_t of_page = come - of_header;
        if (of_header < kPageRequestBytes) {
            targets_.push_back({slot.header.data() + of_header, kPageRequestBytes - of_header});
        }
        targets_.push_back({slot.piece.out + of_page, slot.piece.request.page_size - of_page});
    }
    return targets_;
}

ReplyVerdict ReplyPipeline::received(std::size_t bytes) noexcept {
    while (bytes > 0 && in_flight_ > 0) {
        Slot& slot = slots_[head_];
        const std::uint64_t whole = kPageRequestBytes + slot.piece.request.page_size;
        const std::uint64_t taken = std::min<std::uint64_t>(bytes, whole - head_bytes_);
        const bool had_header = head_bytes_ >= kPageRequestBytes;
        bytes -= taken;
        head_bytes_ += taken;
        if (!had_header && head_bytes_ >= kPageRequestBytes) {
            const PageRequest echo = decode(slot.header);
            if (echo != slot.piece.request) {
                const bool is_refusal = echo.ipa == slot.piece.request.ipa && echo.page_size == kRefusedPageSize;
                return is_refusal ? ReplyVerdict::refused : ReplyVerdict::wrong_echo;
            }
        }
        if (head_bytes_ < whole) {
            break;
        }
        PageRead& read = *slot.piece.read;
        read.left_bytes -= slot.piece.request.page_size;
        head_bytes_ = 0;
        head_ = slot_at(1);
        --in_flight_;
        ++answered_;
        if (read.left_bytes == 0) {
            unlink(read);
            read.finish({});
        }
    }
    return bytes == 0 ? ReplyVerdict::good : ReplyVerdict::wrong_echo;
}

std::optional<PageRequest> ReplyPipeline::front() const noexcept {
    return in_flight_ > 0 ? std::optional(slots_[head_].piece.request) : std::nullopt;
}

std::uint32_t ReplyPipeline::drops_of(const PageRead& read) const noexcept {
    std::uint32_t most = 0;
    for (const Piece& piece : again_) {
        most = piece.read == &read ? std::max(most, piece.drops) : most;
    }
    return most;
}

void ReplyPipeline::disconnected() noexcept {
    if (in_flight_ > 0) {
        ++slots_[head_].piece.drops;
    }
    const bool defer = in_flight_ > 0 && slots_[head_].piece.drops >= kPatientDrops;
    const Piece front = slots_[head_].piece;
    for (std::size_t i = in_flight_; i-- > (defer ? 1U : 0U);) {
        again_.push_back(slots_[slot_at(i)].piece);  // never more than the slots: all were in flight once
    }
    if (defer) {
        again_.insert(again_.begin(), front);
    }
    in_flight_ = 0;
    head_bytes_ = 0;
    unsent_begin_ = 0;
    unsent_end_ = 0;
}

bool ReplyPipeline::is_in_flight(const PageRead& read) const noexcept {
    for (std::size_t i = 0; i < in_flight_; ++i) {
        if (slots_[slot_at(i)].piece.read == &read) {
            return true;
        }
    }
    return false;
}

void ReplyPipeline::fail(PageRead& read, const ReadResult& result) noexcept {
    std::erase_if(again_, [&read](const Piece& piece) { return piece.read == &read; });
    unlink(read);
    read.finish(result);
}

void ReplyPipeline::fail_all(const ReadResult& result) noexcept {
    again_.clear();
    while (first_ != nullptr) {
        PageRead& read = *first_;
        unlink(read);
        read.finish(result);
    }
}

}  // namespace vmthaw
