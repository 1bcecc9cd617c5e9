#include "handover/handover_framing.hpp"

namespace vmthaw {
namespace {

constexpr std::string_view kWhitespace = " \t\r\n";
// What JSON may hold outside strings, brackets apart: numbers, true, false, null and separators. Above all no NUL,
// which the JSON library takes for the end of its input.
constexpr std::string_view kTokens = "0123456789+-.eE,:truefalsnl";

bool is_one_of(char byte, std::string_view set) noexcept { return set.find(byte) != std::string_view::npos; }

}  // namespace

HandoverFraming::State HandoverFraming::refuse(const char* problem) noexcept {
    problem_ = problem;
    return state_ = State::invalid;
}

HandoverFraming::State HandoverFraming::feed(std::string_view bytes) noexcept {
    for (const char byte : bytes) {
        if (state_ == State::invalid || take(byte) == State::invalid) {
            break;
        }
        ++offset_;
    }
    return state_;
}

HandoverFraming::State HandoverFraming::take(char byte) noexcept {
    if (in_string_) {
        if (escaped_) {
            escaped_ = false;
        } else if (byte == '\\') {
            escaped_ = true;
        } else if (byte == '"') {
            in_string_ = false;
        }
        return state_;
    }
    if (is_one_of(byte, kWhitespace)) {
        return state_;
    }
    if (state_ == State::complete) {
        return refuse("something follows the array");
    }
    if (!started_ && byte != '[') {
        return refuse("it does not begin with '['");
    }
    started_ = true;
    return take_outside_string(byte);
}

HandoverFraming::State HandoverFraming::take_outside_string(char byte) noexcept {
    switch (byte) {
        case '"':
            in_string_ = true;
            return state_;
        case '[':
        case '{':
            if (depth_ == kMaxDepth) {
                return refuse("it is nested too deeply");
            }
            open_[depth_++] = byte;
            return state_;
        case ']':
        case '}':
            if (open_[depth_ - 1] != (byte == ']' ? '[' : '{')) {
                return refuse("a bracket closes what was not opened");
            }
            if (--depth_ == 0) {
                state_ = State::complete;
            }
            return state_;
        default:
            return is_one_of(byte, kTokens) ? state_ : refuse("it holds a byte that JSON does not have there");
    }
}

}  // namespace vmthaw
