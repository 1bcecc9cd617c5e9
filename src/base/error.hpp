#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace vmthaw {

// Base of everything this library throws. `class_name()` names the Python class of the same meaning
// (python/vmthaw/errors.py); `fields()` become attributes of the Python exception.
// Set-up code throws these; hot paths return outcomes instead.
class Error : public std::runtime_error {
public:
    using Value = std::variant<std::int64_t, std::uint64_t, std::string>;
    using Fields = std::vector<std::pair<std::string, Value>>;

    explicit Error(const std::string& message, std::string class_name = "VmthawError", Fields fields = {})
        : std::runtime_error(message), class_name_(std::move(class_name)), fields_(std::move(fields)) {}

    [[nodiscard]] const std::string& class_name() const noexcept { return class_name_; }
    [[nodiscard]] const Fields& fields() const noexcept { return fields_; }

private:
    std::string class_name_;
    Fields fields_;
};

// A failed system call: keeps errno, the operation, the address it was about (if any) and the remedy.
// Becomes the OSError subclass that Python people expect for that errno and is a VmthawError as well.
class SystemError : public Error {
public:
    SystemError(int errno_value, const std::string& operation, const std::string& remedy = {},
                std::optional<std::uint64_t> address = std::nullopt);

    [[nodiscard]] int errno_value() const noexcept { return errno_value_; }
    [[nodiscard]] const std::string& operation() const noexcept { return operation_; }

private:
    int errno_value_;
    std::string operation_;
};

// A wrong argument from the caller: ValueError in Python (and a VmthawError).
class ArgumentError : public Error {
public:
    explicit ArgumentError(const std::string& message) : Error(message, "VmthawValueError") {}
};

// The object cannot do this in its present state (closed, already started, ...).
class StateError : public Error {
public:
    explicit StateError(const std::string& message) : Error(message, "StateError") {}
};

// The object was inherited through fork() and is inert in this process.
class ForkedError : public Error {
public:
    explicit ForkedError(const std::string& what)
        : Error(what + " was created before fork(); it is inert in the child: create a new one here", "ForkedError") {}
};

// "0x7f001234": addresses in messages.
[[nodiscard]] std::string hex(std::uint64_t value);

// Checkers, one per errno convention. Each saves errno before anything else can change it.
// Throw SystemError on failure and give the result back otherwise.
int check_errno(int result, const char* operation);
long check_errno_long(long result, const char* operation);
void check_returned(int error_number, const char* operation);

}  // namespace vmthaw
