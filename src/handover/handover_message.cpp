#include "handover/handover_message.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.hpp"
#include "handover/handover_framing.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kMaxU64 = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t kMaxFieldsPerRegion = 64;
constexpr std::size_t kMaxQuotedKey = 64;

enum Field : std::size_t { base, size, offset, page_size, page_size_kib, field_count };
constexpr std::array<const char*, field_count> kFieldNames{"base_host_virt_addr", "size", "offset", "page_size",
                                                           "page_size_kib"};

[[noreturn]] void refuse(const std::string& field, const std::string& why) {
    throw Error("hand-over message: " + (field.empty() ? std::string() : field + ": ") + why, "HandoverError",
                {{"field", field}});
}

// A key as it may stand in a message: hostile text, so only plain characters and not too many of them.
std::string printable(const std::string& key) {
    std::string text = "\"";
    for (const char byte : key.substr(0, kMaxQuotedKey)) {
        text += byte >= ' ' && byte <= '~' ? byte : '?';
    }
    return text + (key.size() > kMaxQuotedKey ? "...\"" : "\"");
}

// Receives the parser's events. Depth 1 is the array, depth 2 a region; anything deeper belongs to a field that we do
// not know and is skipped. Returning false would end the parse without a reason, so refusals are thrown.
class RegionHandler {
public:
    using Json = nlohmann::json;

    [[nodiscard]] std::vector<Region> take() noexcept { return std::move(regions_); }

    bool null() { return scalar("is null"); }
    bool boolean(bool /*value*/) { return scalar("is a boolean"); }
    bool number_integer(Json::number_integer_t /*value*/) { return scalar("is negative"); }
    bool number_float(Json::number_float_t /*value*/, const Json::string_t& /*text*/) {
        return scalar("is not an integer of 64 bits");
    }
    bool string(Json::string_t& /*value*/) { return scalar("is a string"); }
    bool binary(Json::binary_t& /*value*/) { return scalar("is binary"); }

    bool number_unsigned(Json::number_unsigned_t value) {
        if (depth_ != 2 || !field_) {
            return scalar("");
        }
        values_[*field_] = value;
        return true;
    }
    bool start_object(std::size_t /*elements*/) {
        if (++depth_ == 2) {
            if (regions_.size() == kMaxHandoverRegions) {
                refuse(region_name(), "more than " + std::to_string(kMaxHandoverRegions) + " regions");
            }
            values_ = {};
            keys_.clear();
            field_.reset();
            return true;
        }
        --depth_;
        scalar("is an object");
        ++depth_;
        return true;
    }
    bool key(Json::string_t& name) {
        if (depth_ != 2) {
            return true;
        }
        for (const std::string& known : keys_) {
            if (known == name) {
                refuse(region_name(), "the key " + printable(name) + " stands twice");
            }
        }
        if (keys_.size() == kMaxFieldsPerRegion) {
            refuse(region_name(), "more than " + std::to_string(kMaxFieldsPerRegion) + " fields");
        }
        keys_.push_back(name);
        field_.reset();
        for (std::size_t i = 0; i < field_count; ++i) {
            if (name == kFieldNames[i]) {
                field_ = i;
            }
        }
        return true;
    }
    bool end_object() {
        if (depth_-- == 2) {
            regions_.push_back(finish());
        }
        return true;
    }
    bool start_array(std::size_t /*elements*/) {
        if (depth_ > 0) {
            scalar("is an array");
        }
        ++depth_;
        return true;
    }
    bool end_array() {
        --depth_;
        return true;
    }
    bool parse_error(std::size_t position, const std::string& /*token*/, const Json::exception& /*error*/) {
        refuse("", "not JSON at byte " + std::to_string(position));
    }

private:
    [[nodiscard]] std::string region_name() const { return "regions[" + std::to_string(regions_.size()) + "]"; }
    [[nodiscard]] std::string field_name(std::size_t field) const { return region_name() + "." + kFieldNames[field]; }

    // A value that is no unsigned integer: fine where the field is unknown, refused elsewhere.
    bool scalar(const char* what) const {
        if (depth_ == 1) {
            refuse(region_name(), "must be an object");
        }
        if (depth_ == 2 && field_) {
            refuse(field_name(*field_), std::string(what) + "; an integer of 0 or more is needed");
        }
        return true;
    }

    [[nodiscard]] std::uint64_t required(Field field) const {
        const std::optional<std::uint64_t>& value = values_[field];
        if (!value) {
            refuse(field_name(field), "is missing");
        }
        return *value;
    }

    [[nodiscard]] std::uint64_t page_bytes() const {
        const std::optional<std::uint64_t>& bytes = values_[page_size];
        const std::optional<std::uint64_t>& twin = values_[page_size_kib];  // bytes as well, whatever its name says
        if (bytes && twin && *bytes != *twin) {
            refuse(field_name(page_size_kib), "is " + std::to_string(*twin) + " and contradicts page_size, " +
                                                  std::to_string(*bytes) + " (both are bytes)");
        }
        const Field named = !bytes && twin ? page_size_kib : page_size;
        const std::uint64_t value = required(named);
        if (!std::has_single_bit(value)) {
            refuse(field_name(named), "is " + std::to_string(value) + ", which is no power of two");
        }
        return value;
    }

    [[nodiscard]] Region finish() const {
        Region region;
        region.host_address = required(base);
        region.size = required(size);
        region.source_offset = required(offset);
        region.page_size = page_bytes();
        if (region.size == 0) {
            refuse(field_name(size), "is 0");
        }
        if (region.size > kMaxU64 - region.host_address) {
            refuse(field_name(size), "goes past the end of the address space");
        }
        if (region.size > kMaxU64 - region.source_offset) {
            refuse(field_name(size), "goes past the largest file offset");
        }
        return region;
    }

    std::size_t depth_ = 0;
    std::optional<std::size_t> field_;  // the known field whose value comes next
    std::array<std::optional<std::uint64_t>, field_count> values_{};
    std::vector<std::string> keys_;
    std::vector<Region> regions_;
};

}  // namespace

std::vector<Region> parse_handover_message(std::string_view text) {
    if (text.size() > kMaxHandoverBytes) {
        refuse("",
               std::to_string(text.size()) + " bytes are more than the limit of " + std::to_string(kMaxHandoverBytes));
    }
    HandoverFraming framing;
    if (framing.feed(text) == HandoverFraming::State::invalid) {
        refuse("", std::string("not an array of regions: ") + framing.problem() + " (byte " +
                       std::to_string(framing.offset()) + ")");
    }
    if (framing.state() == HandoverFraming::State::incomplete) {
        refuse("", text.empty() ? "empty" : "cut off after " + std::to_string(text.size()) + " bytes");
    }
    std::vector<Region> regions;
    try {
        RegionHandler handler;
        if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
            refuse("", "not JSON");
        }
        regions = handler.take();
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        refuse("", std::string("could not be parsed: ") + error.what());
    }
    if (regions.empty()) {
        refuse("regions", "the array is empty");
    }
    return regions;
}

bool handover_message_is_incomplete(std::string_view text) noexcept {
    HandoverFraming framing;
    return framing.feed(text) == HandoverFraming::State::incomplete;
}

}  // namespace vmthaw
