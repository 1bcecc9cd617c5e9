#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "handover/handover_message.hpp"

// The hand-over message: whatever comes in, there is a HandoverError that names a field, or regions that hold together,
// survive being written out again, and were not complete one byte earlier.
namespace {

using vmthaw::Region;

std::string write_out(const std::vector<Region>& regions) {
    std::string text = "[";
    for (const Region& region : regions) {
        text += text.size() > 1 ? "," : "";
        text += "{\"base_host_virt_addr\":" + std::to_string(region.host_address) +
                ",\"size\":" + std::to_string(region.size) + ",\"offset\":" + std::to_string(region.source_offset) +
                ",\"page_size\":" + std::to_string(region.page_size) + "}";
    }
    return text + "]";
}

void check_regions_hold(const std::vector<Region>& regions) {
    FUZZ_CHECK(!regions.empty() && regions.size() <= vmthaw::kMaxHandoverRegions);
    for (const Region& region : regions) {
        FUZZ_CHECK(region.size > 0);
        FUZZ_CHECK(UINT64_MAX - region.host_address >= region.size);
        FUZZ_CHECK(UINT64_MAX - region.source_offset >= region.size);
        FUZZ_CHECK(std::has_single_bit(region.page_size));
        FUZZ_CHECK(region.guest_address == 0);
    }
}

void check_error(const vmthaw::Error& error) {
    FUZZ_CHECK(error.class_name() == "HandoverError");
    FUZZ_CHECK(error.fields().size() == 1 && error.fields().front().first == "field");
    for (const char* byte = error.what(); *byte != '\0'; ++byte) {
        FUZZ_CHECK(*byte >= ' ' && *byte <= '~');  // hostile bytes must not reach a log
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const std::vector<Region> regions = vmthaw::parse_handover_message(text);
        check_regions_hold(regions);
        FUZZ_CHECK(!vmthaw::handover_message_is_incomplete(text));
        const std::string_view message = text.substr(0, text.rfind(']') + 1);
        FUZZ_CHECK(vmthaw::parse_handover_message(message) == regions);
        FUZZ_CHECK(vmthaw::handover_message_is_incomplete(message.substr(0, message.size() - 1)));
        FUZZ_CHECK(vmthaw::handover_message_is_incomplete(message.substr(0, message.size() / 2)));
        FUZZ_CHECK(vmthaw::parse_handover_message(write_out(regions)) == regions);
    } catch (const vmthaw::Error& error) {
        check_error(error);
    }
    return 0;
}
