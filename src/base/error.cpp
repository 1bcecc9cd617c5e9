#include "base/error.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

namespace vmthaw {
namespace {

std::string compose(int errno_value, const std::string& operation, const std::string& remedy,
                    std::optional<std::uint64_t> address) {
    std::string text = operation;
    if (address) {
        text += " at " + hex(*address);
    }
    text += ": " + std::generic_category().message(errno_value);
    if (!remedy.empty()) {
        text += "; " + remedy;
    }
    return text;
}

Error::Fields system_fields(int errno_value, const std::string& operation, const std::string& remedy,
                            std::optional<std::uint64_t> address) {
    Error::Fields fields{{"errno", static_cast<std::int64_t>(errno_value)},
                         {"operation", operation},
                         {"cause", std::generic_category().message(errno_value)},
                         {"remedy", remedy}};
    if (address) {
        fields.emplace_back("address", *address);
    }
    return fields;
}

}  // namespace

SystemError::SystemError(int errno_value, const std::string& operation, const std::string& remedy,
                         std::optional<std::uint64_t> address)
    : Error(compose(errno_value, operation, remedy, address), "VmthawOSError",
            system_fields(errno_value, operation, remedy, address)),
      errno_value_(errno_value),
      operation_(operation) {}

std::string hex(std::uint64_t value) {
    std::array<char, 24> buffer{};
    const int length = std::snprintf(buffer.data(), buffer.size(), "0x%llx", static_cast<unsigned long long>(value));
    return {buffer.data(), static_cast<std::size_t>(length)};
}

int check_errno(int result, const char* operation) {
    const int saved = errno;  // a destructor that runs while we throw may change it
    if (result < 0) {
        throw SystemError(saved, operation);
    }
    return result;
}

long check_errno_long(long result, const char* operation) {
    const int saved = errno;
    if (result < 0) {
        throw SystemError(saved, operation);
    }
    return result;
}

void check_returned(int error_number, const char* operation) {
    if (error_number != 0) {
        throw SystemError(error_number, operation);
    }
}

}  // namespace vmthaw
