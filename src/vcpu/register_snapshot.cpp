#include "vcpu/register_snapshot.hpp"

#include <array>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace vmthaw {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMostText = 4096;  // five numbers; this is somebody else's text

std::uint64_t number(const Json& value, const char* key) {
    if (!value.is_number_unsigned()) {
        throw ArgumentError(std::string("a register snapshot whose ") + key + " is not a number from 0 to 2^64 - 1");
    }
    return value.get<std::uint64_t>();
}

std::uint64_t required(const Json& object, const char* key) {
    const auto found = object.find(key);
    if (found == object.end()) {
        throw ArgumentError(std::string("a register snapshot without ") + key);
    }
    return number(*found, key);
}

std::optional<std::uint64_t> optional(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? std::nullopt : std::optional(number(*found, key));
}

}  // namespace

std::string RegisterSnapshot::to_text() const {
    std::array<char, 128> text{};
    int length = std::snprintf(text.data(), text.size(), "ip=0x%016" PRIx64 " sp=0x%016" PRIx64 " ptroot=0x%016" PRIx64,
                               instruction_pointer, stack_pointer, page_table_root);
    std::string all(text.data(), static_cast<std::size_t>(length));
    if (user_page_table_root) {
        length = std::snprintf(text.data(), text.size(), " uptroot=0x%016" PRIx64, *user_page_table_root);
        all.append(text.data(), static_cast<std::size_t>(length));
    }
    return all;
}

std::string RegisterSnapshot::to_json() const {
    Json object{{"instruction_pointer", instruction_pointer},
                {"stack_pointer", stack_pointer},
                {"page_table_root", page_table_root}};
    if (user_page_table_root) {
        object["user_page_table_root"] = *user_page_table_root;
    }
    if (tcr_el1) {
        object["tcr_el1"] = *tcr_el1;
    }
    return object.dump();
}

RegisterSnapshot RegisterSnapshot::from_json(std::string_view text) {
    if (text.size() > kMostText) {
        throw ArgumentError("a register snapshot of " + std::to_string(text.size()) + " bytes; 4096 are allowed");
    }
    const Json object = Json::parse(text, nullptr, false);
    if (!object.is_object()) {
        throw ArgumentError("a register snapshot must be one JSON object");
    }
    RegisterSnapshot snapshot;
    snapshot.instruction_pointer = required(object, "instruction_pointer");
    snapshot.stack_pointer = required(object, "stack_pointer");
    snapshot.page_table_root = required(object, "page_table_root");
    snapshot.user_page_table_root = optional(object, "user_page_table_root");
    snapshot.tcr_el1 = optional(object, "tcr_el1");
    return snapshot;
}

}  // namespace vmthaw
