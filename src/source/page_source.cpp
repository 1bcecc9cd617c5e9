#include "source/page_source.hpp"

#include <algorithm>
#include <system_error>

#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kLatelyNs = 1'000'000;

std::string where(const PageSource& source, std::uint64_t offset, std::uint64_t size, std::uint64_t failed_at) {
    return std::to_string(size) + " bytes at offset " + hex(offset) +
           (failed_at == offset ? "" : " (failed at " + hex(failed_at) + ")") + " of " +
           source.description_at(failed_at);
}

[[noreturn]] void throw_out_of_range(const PageSource& source, std::uint64_t offset, std::uint64_t size) {
    const std::string served =
        "it serves " + std::to_string(source.size()) + " bytes from " + hex(source.start()) + " on";
    const std::string why =
        offset < source.start() ? "the range begins below its start" : "the range runs over its end";
    throw Error("cannot read " + where(source, offset, size, offset) + ": " + why + "; " + served, "SourceRangeError",
                {{"offset", offset}, {"size", size}});
}

}  // namespace

std::uint64_t page_spoken_of(std::uint64_t range_size) noexcept {
    const std::uint64_t bits = range_size | kLargestSourcePage;
    return std::max(bits & (~bits + 1), kPageBytes);
}

// A file that was cut answers EFAULT behind its new end; only the page that the end now lies in would be taken for
// whole. So once in a while is often enough: the question is a system call, and 5 % of a fault.
ReadResult PageSource::whole_lately(std::uint64_t /*offset*/, std::uint64_t now_ns) const noexcept {
    if (now_ns - seen_whole_ns_.load(std::memory_order_relaxed) < kLatelyNs) {
        return {};
    }
    const ReadResult whole = still_whole();
    if (whole.ok()) {
        seen_whole_ns_.store(now_ns, std::memory_order_relaxed);
    }
    return whole;
}

void throw_read_error(const PageSource& source, std::uint64_t offset, std::uint64_t size, const ReadResult& result) {
    ReadResult failed = result;
    failed.failed_at = result.failed_at.value_or(offset);
    switch (result.status) {
        case ReadStatus::short_read: {
            const std::string remedy = source.remedy(failed);
            throw Error("short read: got " + std::to_string(result.got_bytes) + " of " +
                            where(source, offset, size, *failed.failed_at) +
                            "; the source holds fewer bytes than it promised" +
                            (remedy.empty() ? " (a file that was cut after it was opened?)" : ": " + remedy),
                        "ShortReadError", {{"got", result.got_bytes}, {"expected", size}});
        }
        case ReadStatus::out_of_range:
            throw_out_of_range(source, offset, size);
        case ReadStatus::closed:
            if (source.inherited()) {
                throw ForkedError(source.description());
            }
            throw StateError(source.description() + " is closed: open a new source");
        case ReadStatus::ok:
        case ReadStatus::io_error:
            break;
    }
    const std::string remedy = source.remedy(failed);
    throw Error("reading " + where(source, offset, size, *failed.failed_at) + ": " +
                    std::generic_category().message(result.errno_value) + (remedy.empty() ? "" : "; " + remedy),
                "SourceIoError", {{"errno", static_cast<std::int64_t>(result.errno_value)}});
}

}  // namespace vmthaw
