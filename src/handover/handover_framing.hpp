#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vmthaw {

// Finds the end of a hand-over message, which carries no length: follows brackets and strings byte by byte, so a
// message that arrives in a million pieces costs no more than one that arrives whole. It accepts a superset of JSON
// arrays (the parser decides), bounds the nesting, and never throws or allocates. One thread at a time.
class HandoverFraming {
public:
    enum class State : std::uint8_t { incomplete, complete, invalid };
    static constexpr std::size_t kMaxDepth = 32;

    // Takes the next bytes. After `complete` only white space may follow; anything else is `invalid`.
    State feed(std::string_view bytes) noexcept;

    [[nodiscard]] State state() const noexcept { return state_; }
    // Bytes taken so far; when invalid, the offset of the offending byte.
    [[nodiscard]] std::size_t offset() const noexcept { return offset_; }
    // Why the state is invalid, as the end of a sentence; "" otherwise.
    [[nodiscard]] const char* problem() const noexcept { return problem_; }

private:
    State refuse(const char* problem) noexcept;
    State take(char byte) noexcept;
    State take_outside_string(char byte) noexcept;

    State state_ = State::incomplete;
    bool started_ = false;
    bool in_string_ = false;
    bool escaped_ = false;
    std::size_t depth_ = 0;
    std::size_t offset_ = 0;
    const char* problem_ = "";
    std::array<char, kMaxDepth> open_{};
};

}  // namespace vmthaw
