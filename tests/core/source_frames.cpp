#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "source/compressed/lz4_frame.hpp"
#include "source/compressed/zstd_frame.hpp"
#include "source_support.hpp"

namespace vmthaw::source_tests {
namespace {

using Bytes = std::vector<std::byte>;
using Decompress = const char* (*)(std::span<const std::byte>, std::span<std::byte>) noexcept;

std::string said(const char* text) { return text == nullptr ? "" : text; }

struct Codec {
    const char* name;
    Bytes (*compress)(std::span<const std::byte>);
    Decompress decompress;
};

class Frames : public ::testing::TestWithParam<Codec> {
protected:
    Bytes bytes_ = bytes_at(0, 5 * kPage + 17);
    Bytes frame_ = GetParam().compress(bytes_);
    Bytes out_ = Bytes(bytes_.size());

    std::string decompress(std::span<const std::byte> frame) { return said(GetParam().decompress(frame, out_)); }
};

TEST_P(Frames, GiveBackWhatWentIn) {
    EXPECT_EQ(decompress(frame_), "");
    EXPECT_EQ(out_, bytes_);
}

TEST_P(Frames, AreRefusedWhenCutAtAnyByte) {
    for (std::size_t size = 0; size < frame_.size(); ++size) {
        EXPECT_NE(decompress(std::span(frame_).first(size)), "") << size;
    }
}

TEST_P(Frames, AreRefusedWhenAnyByteIsWrong) {
    for (std::size_t at = 0; at < frame_.size(); ++at) {
        Bytes wrong = frame_;
        wrong[at] ^= std::byte{0x10};
        if (decompress(wrong).empty()) {
            EXPECT_EQ(out_, bytes_) << at;  // a bit that says nothing about the contents
        }
    }
}

TEST_P(Frames, AreRefusedWhenTheyHoldMoreOrLessThanAsked) {
    out_.resize(bytes_.size() - 1);
    EXPECT_NE(decompress(frame_), "");
    out_.resize(bytes_.size() + 1);
    EXPECT_NE(decompress(frame_), "");
}

TEST_P(Frames, AreRefusedWhenSomethingFollows) {
    frame_.push_back(std::byte{1});
    EXPECT_NE(decompress(frame_), "");
}

INSTANTIATE_TEST_SUITE_P(
    Codecs, Frames,
    ::testing::Values(Codec{"lz4", &lz4_compress, &lz4_decompress},
                      Codec{"zstd", [](std::span<const std::byte> bytes) { return zstd_compress(bytes, 3); },
                            &zstd_decompress}),
    [](const auto& codec) { return std::string(codec.param.name); });

}  // namespace
}  // namespace vmthaw::source_tests
