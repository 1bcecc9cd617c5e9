#include "handover/handover_message.hpp"

#include <gtest/gtest.h>

#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr const char* kGood = R"({"base_host_virt_addr":4096,"size":8192,"offset":0,"page_size":4096})";

struct Refusal {
    std::string text;
    std::string field;
};

Refusal refusal_of(const std::string& text) {
    try {
        static_cast<void>(parse_handover_message(text));
    } catch (const Error& error) {
        EXPECT_EQ(error.class_name(), "HandoverError") << text;
        return {error.what(), std::get<std::string>(error.fields().at(0).second)};
    }
    ADD_FAILURE() << "accepted: " << text;
    return {};
}

std::string region_with(const std::string& base, const std::string& size, const std::string& offset,
                        const std::string& rest) {
    return R"([{"base_host_virt_addr":)" + base + R"(,"size":)" + size + R"(,"offset":)" + offset + rest + "}]";
}

TEST(HandoverMessage, OfFirecrackerIsRead) {
    const auto regions = parse_handover_message(
        R"([{"base_host_virt_addr":139637976727552,"size":3221225472,"offset":0,"page_size":4096,"page_size_kib":4096},)"
        R"({"base_host_virt_addr":139641197953024,"size":1048576,"offset":3221225472,"page_size":4096}])");
    ASSERT_EQ(regions.size(), 2U);
    EXPECT_EQ(regions[0], (Region{139637976727552, 0, 3221225472, 0, 4096}));
    EXPECT_EQ(regions[1], (Region{139641197953024, 0, 1048576, 3221225472, 4096}));
}

TEST(HandoverMessage, TakesBothPageSizeFieldsAsBytes) {
    EXPECT_EQ(parse_handover_message(region_with("0", "2097152", "0", R"(,"page_size_kib":2097152)"))[0].page_size,
              2097152U);
    EXPECT_EQ(parse_handover_message(region_with("0", "4096", "0", R"(,"page_size":4096)"))[0].page_size, 4096U);
    EXPECT_EQ(refusal_of(region_with("0", "4096", "0", R"(,"page_size":4096,"page_size_kib":4)")).field,
              "regions[0].page_size_kib");
}

TEST(HandoverMessage, AcceptsUnknownFieldsOfEveryKind) {
    const std::string rest =
        R"(,"page_size":4096,"a":-1,"b":1.5e300,"c":null,"d":true,"e":"]}","f":[[{"size":7}],{}],"g":{"offset":-9}})";
    const auto regions = parse_handover_message(region_with("4096", "8192", "0", rest.substr(0, rest.size() - 1)));
    EXPECT_EQ(regions.at(0), (Region{4096, 0, 8192, 0, 4096}));
}

TEST(HandoverMessage, NamesTheMissingField) {
    EXPECT_EQ(refusal_of(std::string("[") + kGood + "," + kGood + R"(,{"base_host_virt_addr":1,"offset":0}])").field,
              "regions[2].size");
    EXPECT_EQ(refusal_of("[{}]").field, "regions[0].base_host_virt_addr");
    EXPECT_EQ(refusal_of(region_with("1", "1", "1", "")).field, "regions[0].page_size");
}

TEST(HandoverMessage, WantsIntegersOf64BitsWithoutSign) {
    for (const char* value : {"1.0", "1e3", "-1", "-0", "18446744073709551616", "\"4096\"", "null", "true", "[4096]",
                              "{\"a\":1}", "99999999999999999999999999999999"}) {
        EXPECT_EQ(refusal_of(region_with("4096", value, "0", R"(,"page_size":4096)")).field, "regions[0].size")
            << value;
    }
}

TEST(HandoverMessage, IsBoundedBySubtraction) {
    const char* const rest = R"(,"page_size":4096)";
    EXPECT_EQ(refusal_of(region_with("18446744073709547520", "8192", "0", rest)).field, "regions[0].size");
    EXPECT_EQ(refusal_of(region_with("0", "8192", "18446744073709547520", rest)).field, "regions[0].size");
    EXPECT_EQ(refusal_of(region_with("0", "0", "0", rest)).field, "regions[0].size");
    EXPECT_EQ(parse_handover_message(region_with("18446744073709543423", "8192", "0", rest)).size(), 1U);
}

TEST(HandoverMessage, WantsAPowerOfTwoAsPageSize) {
    for (const char* value : {"0", "4095", "4097", "12288", "18446744073709551615"}) {
        EXPECT_EQ(refusal_of(region_with("0", "4096", "0", std::string(R"(,"page_size":)") + value)).field,
                  "regions[0].page_size");
    }
}

TEST(HandoverMessage, RefusesAKeyThatStandsTwice) {
    EXPECT_EQ(refusal_of(R"([{"size":1,"size":1}])").field, "regions[0]");
    EXPECT_EQ(refusal_of(R"([{"si\u007ae":1,"size":1}])").field, "regions[0]");
    EXPECT_NE(refusal_of("[{\"\\u0001x\\u001b[2J\":1,\"\\u0001x\\u001b[2J\":1}]").text.find("?x?[2J"),
              std::string::npos);
}

TEST(HandoverMessage, RefusesWhatIsNoArrayOfObjects) {
    for (const char* text :
         {"", " ", "{}", "[", "[{]}", "[[]]", "[1]", "[null]", "[\"x\"]", "nonsense", "\xef\xbb\xbf[]", "[{}]]",
          "[{}] x", "[,]", "[{},]", "[{\"size\"}]", "[{} {}]", "[\xff]", "[\"\xff\"]"}) {
        EXPECT_FALSE(refusal_of(text).text.empty()) << text;
    }
    EXPECT_EQ(refusal_of("[]").field, "regions");
    EXPECT_FALSE(refusal_of(std::string("[") + kGood + std::string("]\0", 2)).text.empty());  // NUL ends no message
    EXPECT_FALSE(refusal_of(std::string("[\0]", 3)).text.empty());
}

TEST(HandoverMessage, IsLimitedInDepthRegionsFieldsAndBytes) {
    EXPECT_NE(refusal_of(std::string(1000, '[')).text.find("nested"), std::string::npos);
    std::string many = "[";
    for (std::size_t i = 0; i <= kMaxHandoverRegions; ++i) {
        many += std::string(i == 0 ? "" : ",") + kGood;
    }
    EXPECT_EQ(refusal_of(many + "]").field, "regions[4096]");
    std::string fields = "[{";
    for (int i = 0; i < 100; ++i) {
        fields += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":0";
    }
    EXPECT_EQ(refusal_of(fields + "}]").field, "regions[0]");
    EXPECT_NE(refusal_of("[" + std::string(kMaxHandoverBytes, ' ')).text.find("limit"), std::string::npos);
}

TEST(HandoverMessage, IsIncompleteAtEveryProperPrefix) {
    const std::string text = R"([{"base_host_virt_addr":4096,"x":"]}\"","size":8192,"offset":0,"page_size":4096}])";
    for (std::size_t length = 0; length < text.size(); ++length) {
        EXPECT_TRUE(handover_message_is_incomplete(text.substr(0, length))) << length;
    }
    EXPECT_FALSE(handover_message_is_incomplete(text));
    EXPECT_FALSE(handover_message_is_incomplete("GET / HTTP/1.1"));
    EXPECT_FALSE(handover_message_is_incomplete("[}"));
}

}  // namespace
}  // namespace vmthaw
