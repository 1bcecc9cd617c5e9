#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <list>
#include <vector>

#include "fuzz_check.hpp"
#include "source/socket/reply_pipeline.hpp"

// What a page server may answer: right replies, any bytes, in any pieces, and connections that end anywhere, while
// readers come. A read that ends well has exactly its bytes, every read ends, and nothing is written beside the buffers
// of unanswered requests (the address sanitizer looks).
namespace {

using vmthaw::PageRead;
using vmthaw::PageRequest;
using vmthaw::ReplyPipeline;
using vmthaw::ReplyVerdict;

constexpr std::uint64_t kPage = 4096;

std::byte byte_at(std::uint64_t position) { return static_cast<std::byte>(position / kPage * 31 + position % 251); }

struct Reader {
    Reader(std::uint64_t ipa, std::uint64_t size) : out(size), read(ipa, out, 0) {}
    std::vector<std::byte> out;
    PageRead read;
};

std::vector<std::byte> right_reply(const PageRequest& request) {
    const auto header = vmthaw::encode(request);
    std::vector<std::byte> reply(header.begin(), header.end());
    for (std::uint64_t i = 0; i < request.page_size; ++i) {
        reply.push_back(byte_at(request.ipa + i));
    }
    return reply;
}

class Play {
public:
    explicit Play(FuzzedDataProvider& input)
        : input_(input),
          most_(input.ConsumeIntegralInRange<std::size_t>(1, 8)),
          pipeline_(kPage << input.ConsumeIntegralInRange<unsigned>(0, 2), most_) {}

    void run() {
        for (int step = 0; step < 200 && input_.remaining_bytes() > 0; ++step) {
            switch (input_.ConsumeIntegralInRange<int>(0, 5)) {
                case 0:
                    add();
                    break;
                case 1:
                    send();
                    break;
                case 2:
                    disconnect();
                    break;
                case 3:
                    feed(garbage(), false);
                    break;
                default:
                    answer();
            }
            FUZZ_CHECK(pipeline_.in_flight() <= most_);
        }
        disconnect();
        pipeline_.fail_all({.status = vmthaw::ReadStatus::closed});
        for (const Reader& reader : readers_) {
            FUZZ_CHECK(reader.read.done);
            for (std::uint64_t i = 0; reader.read.result.ok() && !lied_ && i < reader.out.size(); ++i) {
                FUZZ_CHECK(reader.out[i] == byte_at(reader.read.ipa + i));
            }
        }
        FUZZ_CHECK(pipeline_.first() == nullptr && pipeline_.to_send().empty() && pipeline_.targets().empty());
    }

private:
    void add() {
        if (readers_.size() < 12) {
            const std::uint64_t ipa = input_.ConsumeIntegralInRange<std::uint64_t>(0, 40) * kPage;
            readers_.emplace_back(ipa, input_.ConsumeIntegralInRange<std::uint64_t>(1, 9) * kPage);
            pipeline_.add(readers_.back().read);
        }
    }
    void send() {
        const auto bytes = pipeline_.to_send();
        const std::size_t sent = input_.ConsumeIntegralInRange<std::size_t>(0, bytes.size());
        wire_.insert(wire_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(sent));
        pipeline_.sent(sent);
    }
    void disconnect() {
        pipeline_.disconnected();
        wire_.clear();
        partial_.clear();
    }
    std::vector<std::byte> garbage() {
        std::vector<std::byte> bytes;
        for (const std::uint8_t byte :
             input_.ConsumeBytes<std::uint8_t>(input_.ConsumeIntegralInRange<std::size_t>(0, 40))) {
            bytes.push_back(static_cast<std::byte>(byte));
        }
        return bytes;
    }
    // The rest of the reply under way or a new one, or a part of it.
    void answer() {
        if (partial_.empty()) {
            if (wire_.size() < vmthaw::kPageRequestBytes) {
                return;
            }
            vmthaw::PageRequestBytes bytes{};
            std::copy_n(wire_.begin(), bytes.size(), bytes.begin());
            wire_.erase(wire_.begin(), wire_.begin() + static_cast<std::ptrdiff_t>(bytes.size()));
            partial_ = right_reply(vmthaw::decode(bytes));
        }
        const std::size_t size =
            input_.ConsumeBool() ? partial_.size() : input_.ConsumeIntegralInRange<std::size_t>(0, partial_.size());
        const std::vector<std::byte> now(partial_.begin(), partial_.begin() + static_cast<std::ptrdiff_t>(size));
        partial_.erase(partial_.begin(), partial_.begin() + static_cast<std::ptrdiff_t>(size));
        feed(now, true);
    }
    void feed(std::span<const std::byte> bytes, bool is_right) {
        lied_ = lied_ || (!is_right && !bytes.empty());
        while (!bytes.empty()) {
            std::size_t given = 0;
            for (const iovec& target : pipeline_.targets()) {
                const std::size_t part = std::min<std::size_t>(target.iov_len, bytes.size() - given);
                std::memcpy(target.iov_base, bytes.data() + given, part);
                given += part;
            }
            if (given == 0) {
                return;
            }
            bytes = bytes.subspan(given);
            if (pipeline_.received(given) != ReplyVerdict::good) {
                FUZZ_CHECK(lied_);
                PageRead* const culprit = pipeline_.front_read();
                FUZZ_CHECK(culprit != nullptr && !culprit->done);
                disconnect();
                pipeline_.fail(*culprit, {.status = vmthaw::ReadStatus::io_error, .errno_value = 71});
                return;
            }
        }
    }

    FuzzedDataProvider& input_;
    std::size_t most_;
    ReplyPipeline pipeline_;
    std::list<Reader> readers_;
    std::deque<std::byte> wire_;
    std::vector<std::byte> partial_;
    bool lied_ = false;  // bytes of a page may be anything then
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    Play(input).run();
    return 0;
}
