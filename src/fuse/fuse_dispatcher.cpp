#include "fuse/fuse_dispatcher.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "fuse/fuse_call.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

constexpr std::uint32_t kPage_bytes = 4096;               // Linux counts max_pages in its own; none has smaller ones
constexpr std::uint32_t kMaxWriteLimit_bytes = 1U << 20;  // 256 pages, FUSE_MAX_MAX_PAGES
constexpr std::size_t kXattrRequest_bytes = 65536 + 512;  // XATTR_SIZE_MAX, its name and structure
constexpr std::size_t kReadBufferMin_bytes = 8192;        // FUSE_MIN_READ_BUFFER

constexpr std::uint64_t kProposed = kFuseAsyncRead | kFuseAtomicOTrunc | kFuseBigWrites | kFuseAutoInvalData |
                                    kFuseDoReaddirplus | kFuseReaddirplusAuto | kFuseAsyncDio | kFuseParallelDirops |
                                    kFuseMaxPages | kFuseSetxattrExt | kFuseInitExt;

void log_malformed(const RequestReader& in) noexcept {
    if (log_level() == LogLevel::debug) {
        std::array<char, 128> text{};
        const int length =
            std::snprintf(text.data(), text.size(), "request %u of opcode %u: error %d in %s",
                          static_cast<unsigned>(in.header().unique), in.header().opcode, in.error(), in.field());
        log_line(LogLevel::debug, "fuse", {text.data(), static_cast<std::size_t>(std::max(length, 0))});
    }
}

}  // namespace

FuseDispatcher::FuseDispatcher(std::shared_ptr<FileSystem> file_system, FuseDispatcherConfig config,
                               std::shared_ptr<DaxTarget> dax)
    : file_system_(std::move(file_system)), config_(config), dax_(std::move(dax)) {
    if (file_system_ == nullptr) {
        throw ArgumentError("a FUSE dispatcher needs a file system");
    }
    if (config_.max_write_bytes < kPage_bytes || config_.max_write_bytes > kMaxWriteLimit_bytes ||
        config_.max_write_bytes % kPage_bytes != 0) {
        throw ArgumentError("max_write_bytes is " + std::to_string(config_.max_write_bytes) +
                            "; it must be a multiple of 4096, at most 1048576");
    }
}

FuseDispatcher::~FuseDispatcher() { reset(); }

std::size_t FuseDispatcher::max_request_bytes() const noexcept {
    return std::max({kReadBufferMin_bytes, kXattrRequest_bytes,
                     sizeof(FuseInHeader) + sizeof(FuseWriteIn) + config_.max_write_bytes});
}

std::size_t FuseDispatcher::max_reply_bytes() const noexcept {
    return std::max<std::size_t>(kXattrRequest_bytes, sizeof(FuseOutHeader) + config_.max_write_bytes);
}

std::size_t FuseDispatcher::dispatch(std::span<const std::byte> request, std::span<std::byte> reply,
                                     FileBytes* file_bytes) noexcept {
    requests_.fetch_add(1, std::memory_order_relaxed);
    RequestReader in(request);
    if (!in.has_header()) {
        malformed_.fetch_add(1, std::memory_order_relaxed);
        return 0;
    }
    ReplyWriter out(reply, in.header().unique);
    std::size_t elsewhere_bytes = 0;
    bool silent = fuse_handler(in.header().opcode).silent;
    int error = in.error();
    if (error == 0) {
        error = serve(in, out, file_bytes, elsewhere_bytes, silent);
    }
    if (in.error() != 0) {
        malformed_.fetch_add(1, std::memory_order_relaxed);
        log_malformed(in);
    }
    return silent ? 0 : out.finish(error, elsewhere_bytes);
}

int FuseDispatcher::serve(RequestReader& in, ReplyWriter& out, FileBytes* file_bytes, std::size_t& elsewhere_bytes,
                          bool& silent) noexcept {
    const std::uint32_t opcode = in.header().opcode;
    if (opcode == static_cast<std::uint32_t>(FuseOpcode::init)) {
        return init(in, out);
    }
    if (opcode == static_cast<std::uint32_t>(FuseOpcode::destroy)) {
        const bool was_there = gate_.begin_change();
        end_session();
        gate_.finish_change(false);
        return was_there ? 0 : EIO;
    }
    const FuseHandler handler = fuse_handler(opcode);
    if (!gate_.enter()) {
        return EIO;
    }
    int error = ENOSYS;
    if (handler.run != nullptr) {
        FuseCall call{*file_system_, dax_.get(), session_, in, out, file_bytes};
        if (out.room() < handler.reply_bytes) {
            in.fail(EINVAL, "reply");
            error = EINVAL;
        } else {
            error = handler.run(call);
        }
        elsewhere_bytes = call.elsewhere_bytes;
        silent = handler.silent || call.silent;
    }
    gate_.leave();
    // What a file system answers goes out negated, and the kernel ends a mount over what is no errno.
    return error < 0 || error > 4095 ? EIO : error;
}

void FuseDispatcher::end_session() noexcept {
    if (std::exchange(has_client_, false)) {
        if (dax_ != nullptr) {
            dax_->reset();
        }
        file_system_->destroy();
    }
}

void FuseDispatcher::reset() noexcept {
    gate_.begin_change();
    end_session();
    gate_.finish_change(false);
}

int FuseDispatcher::init(RequestReader& in, ReplyWriter& out) noexcept {
    // The first 16 bytes came with 7.6, the rest, for the upper half of the flags, with 7.36.
    FuseInitIn offer;
    offer.major = in.take<std::uint32_t>("major");
    offer.minor = in.take<std::uint32_t>("minor");
    if (in.error() == 0 && offer.major == kFuseMajor) {
        offer.max_readahead = in.take<std::uint32_t>("max_readahead");
        offer.flags = in.take<std::uint32_t>("flags");
        if ((offer.flags & kFuseInitExt) != 0) {
            offer.flags2 = in.take<std::uint32_t>("flags2");
        }
    }
    FuseInitOut answer;
    if (out.room() < sizeof answer) {
        in.fail(EINVAL, "reply");
    }
    if (in.error() != 0) {
        return in.error();
    }
    if (offer.major < kFuseMajor || (offer.major == kFuseMajor && offer.minor < kFuseOldestMinor)) {
        return EPROTO;
    }
    answer.major = kFuseMajor;
    answer.minor = kFuseMinor;
    if (offer.major > kFuseMajor) {
        out.put(answer);  // "speak 7": another INIT follows
        return 0;
    }
    gate_.begin_change();
    end_session();
    const int error = settle(offer, answer);
    gate_.finish_change(error == 0);
    if (error == 0) {
        out.put(answer);
    }
    return error;
}

int FuseDispatcher::settle(const FuseInitIn& offer, FuseInitOut& answer) noexcept {
    InitTerms terms;
    terms.minor = std::min(offer.minor, kFuseMinor);
    terms.offered = offer.flags | (std::uint64_t{offer.flags2} << 32U);
    terms.wanted = kProposed;
    terms.max_readahead_bytes = std::min(offer.max_readahead, config_.max_readahead_bytes);
    terms.max_write_bytes = config_.max_write_bytes;
    has_client_ = true;
    const int error = file_system_->init(terms);
    if (error != 0) {
        end_session();
        return error;
    }
    constexpr std::uint64_t dax_flags = kFuseMapAlignment | kFuseHasInodeDax;
    terms.wanted = dax_ == nullptr ? terms.wanted & ~dax_flags : terms.wanted | dax_flags;
    session_.flags = terms.wanted & terms.offered;
    session_.minor = terms.minor;
    session_.max_write_bytes = std::min(std::max(terms.max_write_bytes, kPage_bytes), config_.max_write_bytes);
    session_.entry_ttl_ns = config_.entry_ttl_ns;
    session_.attr_ttl_ns = config_.attr_ttl_ns;
    answer.max_readahead = terms.max_readahead_bytes;
    answer.flags = static_cast<std::uint32_t>(session_.flags);
    answer.flags2 = static_cast<std::uint32_t>(session_.flags >> 32U);
    answer.max_background = config_.max_background;
    answer.congestion_threshold = static_cast<std::uint16_t>(config_.max_background / 4 * 3);
    answer.max_write = session_.max_write_bytes;
    answer.time_gran = terms.time_granularity_ns;
    answer.max_pages = static_cast<std::uint16_t>(session_.max_write_bytes / kPage_bytes);
    answer.map_alignment = (session_.flags & kFuseMapAlignment) != 0 ? dax_->map_alignment() : std::uint16_t{0};
    return 0;
}

}  // namespace vmthaw
