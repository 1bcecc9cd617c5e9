#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <span>

#include "source/page_source.hpp"

namespace vmthaw {

// One caller's read while it waits for a page server. Lives on the caller's stack; every field is guarded by the
// connection's lock but `out`, which is written while its bytes are asked for and the read is not done.
struct PageRead {
    PageRead(std::uint64_t address, std::span<std::byte> room, std::uint64_t now_ns) noexcept
        : ipa(address), out(room), left_bytes(room.size()), start_ns(now_ns) {}

    const std::uint64_t ipa;
    const std::span<std::byte> out;
    std::uint64_t asked_bytes = 0;  // from the front: what has become requests
    std::uint64_t left_bytes;       // not answered yet
    const std::uint64_t start_ns;
    bool done = false;
    bool leads = false;  // it is this caller's turn to drive the connection
    ReadResult result;
    PageRead* next = nullptr;
    std::condition_variable news;  // done, or leads

    void finish(const ReadResult& with) noexcept {
        result = with;
        done = true;
        news.notify_one();
    }
};

}  // namespace vmthaw
