#include "userfaultfd/message.hpp"

#include <cstring>
#include <limits>

namespace vmthaw {
namespace {

UnknownMessage keep(const UffdMessage& message, bool is_malformed) noexcept {
    UnknownMessage kept{message.event, is_malformed, {}};
    std::memcpy(kept.bytes.data(), &message, sizeof message);
    return kept;
}

bool fits(std::uint64_t start, std::uint64_t size) noexcept {
    return size <= std::numeric_limits<std::uint64_t>::max() - start;
}

}  // namespace

Message decode(const UffdMessage& message) noexcept {
    switch (message.event) {
        case kEventPagefault:
            return PagefaultMessage{message.arg.pagefault.address, message.arg.pagefault.flags,
                                    message.arg.pagefault.tid};
        case kEventFork: {
            const std::uint32_t fd = message.arg.fork.ufd;
            if (fd > static_cast<std::uint32_t>(std::numeric_limits<int>::max())) {
                return keep(message, true);
            }
            return ForkMessage{static_cast<int>(fd)};
        }
        case kEventRemap: {
            const RemapMessage remap{message.arg.remap.from, message.arg.remap.to, message.arg.remap.len};
            if (!fits(remap.host_from, remap.size_bytes) || !fits(remap.host_to, remap.size_bytes)) {
                return keep(message, true);
            }
            return remap;
        }
        case kEventRemove:
        case kEventUnmap: {
            const std::uint64_t start = message.arg.remove.start;
            const std::uint64_t end = message.arg.remove.end;
            if (end < start) {
                return keep(message, true);
            }
            if (message.event == kEventRemove) {
                return RemoveMessage{start, end};
            }
            return UnmapMessage{start, end};
        }
        default:
            return keep(message, false);
    }
}

}  // namespace vmthaw
