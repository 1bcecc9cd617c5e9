#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "vcpu/page_walk.hpp"

namespace vmthaw::walk_test {

// Guest-physical memory of 64 KiB pieces; what was not written is not there.
class Physical {
public:
    void put(std::uint64_t address, std::uint64_t value, std::size_t bytes = 8) {
        auto& piece = pieces_[address / kPiece];
        piece.resize(kPiece);
        std::memcpy(piece.data() + address % kPiece, &value, bytes);
    }
    [[nodiscard]] ReadPhysical reader() const {
        return [this](std::uint64_t address, std::span<std::byte> out) {
            ++reads;
            const auto found = pieces_.find(address / kPiece);
            if (found == pieces_.end() || address % kPiece + out.size() > kPiece) {
                return false;
            }
            std::memcpy(out.data(), found->second.data() + address % kPiece, out.size());
            return true;
        };
    }
    mutable int reads = 0;

private:
    static constexpr std::uint64_t kPiece = 65536;
    std::map<std::uint64_t, std::vector<std::byte>> pieces_;
};

inline constexpr std::uint64_t kNoExecute = std::uint64_t{1} << 63U;

inline PageTranslation found(const PagingState& state, const Physical& memory, std::uint64_t address) {
    const WalkResult result = translate(state, memory.reader(), address);
    const auto* const failure = std::get_if<WalkFailure>(&result);
    if (failure != nullptr) {
        ADD_FAILURE() << failure->describe();
        return {};
    }
    return std::get<PageTranslation>(result);
}

inline std::string failed(const PagingState& state, const Physical& memory, std::uint64_t address) {
    const WalkResult result = translate(state, memory.reader(), address);
    const auto* const failure = std::get_if<WalkFailure>(&result);
    std::string text = failure == nullptr ? "translated" : walk_failure_name(failure->reason);
    return failure == nullptr ? text : text.append(" ").append(std::to_string(failure->level));
}

}  // namespace vmthaw::walk_test
