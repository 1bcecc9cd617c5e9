#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "fuse_protocol/mapping_requests.hpp"
#include "fuzz_check.hpp"

// The two mapping requests: any bytes are refused with a field's name, or give entries that are the bytes at 4 + 16 * i
// and no more of them than there are bytes. The first byte of the input chooses the client's page size.
namespace {

void check_outcome(const vmthaw::ParseOutcome& outcome) {
    FUZZ_CHECK((outcome.error == 0) == std::string_view(outcome.field).empty());
    FUZZ_CHECK(outcome.error == 0 || outcome.error == EINVAL);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::uint64_t page_bytes = (data[0] & 1U) != 0 ? 65536 : 4096;
    // Exactly as large as the request: a read past its end is seen.
    const std::vector<std::uint8_t> request(data + 1, data + size);
    const std::span<const std::byte> bytes = std::as_bytes(std::span(request));

    vmthaw::SetupMappingIn setup;
    const vmthaw::ParseOutcome set_up = vmthaw::parse_setup_mapping(bytes, setup);
    check_outcome(set_up);
    FUZZ_CHECK((set_up.error == 0) == (request.size() >= sizeof setup));
    FUZZ_CHECK(set_up.error != 0 || std::memcmp(&setup, request.data(), sizeof setup) == 0);

    vmthaw::RemoveMappingEntries entries;
    const vmthaw::ParseOutcome removed = vmthaw::parse_remove_mapping(bytes, entries, page_bytes);
    check_outcome(removed);
    FUZZ_CHECK(entries.size() <= page_bytes / 16);
    FUZZ_CHECK(removed.error != 0 || request.size() >= 4 + 16 * entries.size());
    std::uint32_t count = 0;
    if (removed.error == 0) {
        std::memcpy(&count, request.data(), sizeof count);
    }
    FUZZ_CHECK(entries.size() == count);
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const vmthaw::RemoveMappingOne one = entries.at(i);
        FUZZ_CHECK(std::memcmp(&one, request.data() + 4 + 16 * i, sizeof one) == 0);
    }
    return 0;
}
