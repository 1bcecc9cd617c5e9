#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "fuse_protocol/fuse_requests.hpp"
#include "fuse_protocol/request_reader.hpp"
#include "fuzz_check.hpp"

// The reader of requests: whatever is taken in whatever order lies within the bytes, and the first error stays. The
// input's last bytes, after a marker, choose what is taken.
namespace {

using vmthaw::RequestReader;

void check_within(std::span<const std::byte> all, const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    FUZZ_CHECK(size == 0 || (begin >= all.data() && begin + size <= all.data() + all.size()));
}

void check_name(std::span<const std::byte> all, std::string_view name, std::size_t limit) {
    FUZZ_CHECK(name.size() <= limit);
    check_within(all, name.data(), name.size() + (name.empty() ? 0 : 1));
    FUZZ_CHECK(name.empty() || name.data()[name.size()] == '\0');
    FUZZ_CHECK(name.find('\0') == std::string_view::npos);
}

template <typename Structure>
void take(RequestReader& reader) {
    const std::size_t before = reader.rest().size();
    static_cast<void>(reader.take<Structure>("structure"));
    FUZZ_CHECK(reader.error() != 0 || reader.rest().size() == before - sizeof(Structure));
}

void step(RequestReader& reader, std::span<const std::byte> all, std::uint8_t choice) {
    switch (choice % 8) {
        case 0: {
            const std::string_view name = reader.take_name("name");
            check_name(all, name, 255);
            FUZZ_CHECK(name.find('/') == std::string_view::npos && name != "." && name != "..");
            FUZZ_CHECK(!name.empty() || reader.error() != 0);
            break;
        }
        case 1:
            check_name(all, reader.take_lookup_name("name"), 255);
            break;
        case 2:
            check_name(all, reader.take_text(vmthaw::kFusePathMax_bytes, "target"), vmthaw::kFusePathMax_bytes);
            break;
        case 3:
            take<vmthaw::FuseSetattrIn>(reader);
            break;
        case 4:
            take<vmthaw::FuseForgetOne>(reader);
            break;
        case 5:
            take<std::uint32_t>(reader);
            break;
        case 6: {
            const std::uint64_t count = choice == 254 ? UINT64_MAX : choice;
            const std::span<const std::byte> bytes = reader.take_bytes(count, "bytes");
            FUZZ_CHECK(bytes.empty() || bytes.size() == count);
            check_within(all, bytes.data(), bytes.size());
            break;
        }
        default:
            reader.expect_end("end");
            FUZZ_CHECK(reader.rest().empty());
            break;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::size_t choices = size < 16 ? 0 : 16;
    const auto all = std::as_bytes(std::span(data, size - choices));
    std::vector<std::byte> request(all.begin(), all.end());
    // Half of the time the length is right, so that what follows is reached.
    if (choices != 0 && (data[size - 1] & 1U) != 0 && request.size() >= sizeof(vmthaw::FuseInHeader)) {
        const auto length = static_cast<std::uint32_t>(request.size());
        std::memcpy(request.data(), &length, sizeof length);
    }
    RequestReader reader(request);
    FUZZ_CHECK(reader.has_header() == (request.size() >= sizeof(vmthaw::FuseInHeader)));
    for (std::size_t at = 0; at < choices; ++at) {
        const int error = reader.error();
        const char* field = reader.field();
        step(reader, request, data[size - choices + at]);
        check_within(request, reader.rest().data(), reader.rest().size());
        FUZZ_CHECK(error == 0 || (reader.error() == error && reader.field() == field && reader.rest().empty()));
    }
    return 0;
}
