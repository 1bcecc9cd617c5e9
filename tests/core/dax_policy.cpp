#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dax/dax_decisions.hpp"

namespace vmthaw {
namespace {

class Asked final : public DaxPolicy {
public:
    [[nodiscard]] bool uses_dax(const DaxFile& file) noexcept override {
        names.push_back(file.name);
        return file.size_bytes >= 4096;
    }
    std::vector<std::string> names;
};

TEST(DaxPolicy, RulesLookAtSizeAndName) {
    DaxRules rules(65536, {"*.bin", "data*"}, {"*.tmp"});
    EXPECT_TRUE(rules.uses_dax({1, "a.bin", 65536}));
    EXPECT_FALSE(rules.uses_dax({1, "a.bin", 65535}));
    EXPECT_FALSE(rules.uses_dax({1, "data.tmp", 1 << 20}));
    EXPECT_FALSE(rules.uses_dax({1, "other", 1 << 20}));
    EXPECT_FALSE(rules.uses_dax({1, ".bin", 1 << 20})) << "a leading dot is matched by a dot alone";
    EXPECT_TRUE(rules.uses_dax({1, "", 1 << 20})) << "without a name by size alone";
}

TEST(DaxPolicy, IsAskedOnceForEachOpen) {
    const auto asked = std::make_shared<Asked>();
    DaxDecisions decisions(asked);
    EXPECT_FALSE(decisions.uses_dax({7, "small", 100})) << "looked up";
    decisions.opened(7);
    EXPECT_FALSE(decisions.uses_dax({7, "", 8192})) << "the size of its look-up counts while it is open";
    EXPECT_EQ(asked->names.size(), 1U);
    decisions.opened(7);
    EXPECT_TRUE(decisions.uses_dax({7, "", 8192}));
    EXPECT_TRUE(decisions.uses_dax({7, "", 100}));
    EXPECT_EQ(asked->names, (std::vector<std::string>{"small", "small"})) << "the name is remembered";
    decisions.forgotten(7);
    decisions.opened(7);
    EXPECT_FALSE(decisions.uses_dax({7, "again", 100}));
    EXPECT_TRUE(decisions.opened(DaxFile{8, "new", 4096}));
    EXPECT_TRUE(decisions.uses_dax({8, "", 0}));
    EXPECT_EQ(asked->names.size(), 4U);
    decisions.clear();
    EXPECT_FALSE(decisions.uses_dax({8, "", 0}));
}

TEST(DaxPolicy, WithoutOneEverythingIsMapped) {
    DaxDecisions decisions(nullptr);
    EXPECT_TRUE(decisions.uses_dax({1, "any", 0}));
    EXPECT_TRUE(decisions.opened(DaxFile{1, "any", 0}));
}

}  // namespace
}  // namespace vmthaw
