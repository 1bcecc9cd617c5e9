#include <cstdint>
#include <cstring>
#include <limits>
#include <variant>

#include "fuzz_check.hpp"
#include "userfaultfd/message.hpp"

// The decoder of userfaultfd messages: any 32 bytes give a message whose fields are those of the bytes and hold what
// its type promises, or an UnknownMessage that keeps every byte and says rightly whether it was malformed.
namespace {

struct Checker {
    const vmthaw::UffdMessage& raw;

    void operator()(const vmthaw::PagefaultMessage& message) const {
        FUZZ_CHECK(raw.event == vmthaw::kEventPagefault);
        FUZZ_CHECK(message.host_address == raw.arg.pagefault.address);
        FUZZ_CHECK(message.flags == raw.arg.pagefault.flags);
        FUZZ_CHECK(message.thread_id == raw.arg.pagefault.tid);
        FUZZ_CHECK(message.is_missing() == (!message.is_write_protect() && !message.is_minor()));
    }
    void operator()(const vmthaw::ForkMessage& message) const {
        FUZZ_CHECK(raw.event == vmthaw::kEventFork);
        FUZZ_CHECK(message.fd >= 0 && static_cast<std::uint32_t>(message.fd) == raw.arg.fork.ufd);
    }
    void operator()(const vmthaw::RemapMessage& message) const {
        FUZZ_CHECK(raw.event == vmthaw::kEventRemap);
        FUZZ_CHECK(message.host_from == raw.arg.remap.from && message.host_to == raw.arg.remap.to);
        FUZZ_CHECK(message.size_bytes == raw.arg.remap.len);
        FUZZ_CHECK(UINT64_MAX - message.host_from >= message.size_bytes);
        FUZZ_CHECK(UINT64_MAX - message.host_to >= message.size_bytes);
    }
    void operator()(const vmthaw::RemoveMessage& message) const {
        FUZZ_CHECK(raw.event == vmthaw::kEventRemove);
        FUZZ_CHECK(message.host_start == raw.arg.remove.start && message.host_end == raw.arg.remove.end);
        FUZZ_CHECK(message.host_start <= message.host_end);
    }
    void operator()(const vmthaw::UnmapMessage& message) const {
        FUZZ_CHECK(raw.event == vmthaw::kEventUnmap);
        FUZZ_CHECK(message.host_start == raw.arg.remove.start && message.host_end == raw.arg.remove.end);
        FUZZ_CHECK(message.host_start <= message.host_end);
    }
    void operator()(const vmthaw::UnknownMessage& message) const {
        FUZZ_CHECK(message.event == raw.event);
        FUZZ_CHECK(std::memcmp(message.bytes.data(), &raw, sizeof raw) == 0);
        const bool known = raw.event >= vmthaw::kEventPagefault && raw.event <= vmthaw::kEventUnmap;
        FUZZ_CHECK(message.is_malformed == known);
        FUZZ_CHECK(raw.event != vmthaw::kEventPagefault);  // nothing in a page fault can be impossible
        if (raw.event == vmthaw::kEventFork) {
            FUZZ_CHECK(raw.arg.fork.ufd > static_cast<std::uint32_t>(std::numeric_limits<int>::max()));
        }
        if (raw.event == vmthaw::kEventRemove || raw.event == vmthaw::kEventUnmap) {
            FUZZ_CHECK(raw.arg.remove.end < raw.arg.remove.start);
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // As a batch read gives them: one after another.
    for (std::size_t at = 0; size - at >= sizeof(vmthaw::UffdMessage); at += sizeof(vmthaw::UffdMessage)) {
        vmthaw::UffdMessage raw{};
        std::memcpy(&raw, data + at, sizeof raw);
        std::visit(Checker{raw}, vmthaw::decode(raw));
    }
    return 0;
}
