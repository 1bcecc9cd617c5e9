#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "filesystem/path_nodes.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {
namespace {

class PathNodesTest : public ::testing::Test {
protected:
    std::uint64_t give(std::uint64_t parent, std::string_view name) {
        std::uint64_t node = 0;
        EXPECT_EQ(nodes.give(parent, name, node), 0);
        return node;
    }
    std::string path(std::uint64_t node) {
        std::string text;
        return nodes.path_of(node, text) == 0 ? text : "stale";
    }
    PathNodes nodes;
    static constexpr std::uint64_t root = kFuseRootNode;
};

TEST_F(PathNodesTest, NameTheRootAndWhatLiesBelow) {
    const std::uint64_t directory = give(root, "dir");
    const std::uint64_t file = give(directory, "file");
    EXPECT_EQ(path(root), "/");
    EXPECT_EQ(path(file), "/dir/file");
    std::string text;
    EXPECT_EQ(nodes.path_of(root, "new", text), 0);
    EXPECT_EQ(text, "/new");
    EXPECT_EQ(nodes.path_of(directory, "new", text), 0);
    EXPECT_EQ(text, "/dir/new");
    EXPECT_EQ(nodes.path_of(99, text), ESTALE);
    EXPECT_EQ(give(directory, "file"), file);
}

TEST_F(PathNodesTest, ForgetExactlyWhatWasGivenAndKeepParentsOfWhatIsHeld) {
    const std::uint64_t directory = give(root, "dir");
    const std::uint64_t file = give(directory, "file");
    give(directory, "file");
    EXPECT_EQ(nodes.held(), 2U);
    nodes.forget(directory, 1);
    EXPECT_EQ(path(directory), "stale");
    EXPECT_EQ(path(file), "/dir/file");
    nodes.forget(file, 1);
    EXPECT_EQ(path(file), "/dir/file");
    nodes.forget(file, UINT64_MAX);
    EXPECT_EQ(nodes.held(), 0U);
    EXPECT_EQ(nodes.size(), 1U);
    nodes.forget(file, 1);
    nodes.forget(root, 1);
    EXPECT_EQ(path(root), "/");
}

TEST_F(PathNodesTest, MoveWithTheirDirectory) {
    const std::uint64_t one = give(root, "one");
    const std::uint64_t two = give(root, "two");
    const std::uint64_t file = give(one, "file");
    nodes.renamed(root, "one", two, "inner", false);
    EXPECT_EQ(path(file), "/two/inner/file");
    EXPECT_EQ(give(two, "inner"), one);
    EXPECT_NE(give(root, "one"), one);
    nodes.clear();
    EXPECT_EQ(nodes.size(), 1U);
    EXPECT_EQ(nodes.held(), 0U);
}

TEST_F(PathNodesTest, LoseTheNameThatARenameTakes) {
    const std::uint64_t one = give(root, "one");
    const std::uint64_t two = give(root, "two");
    nodes.renamed(root, "one", root, "two", false);
    EXPECT_EQ(path(one), "/two");
    EXPECT_EQ(give(root, "two"), one);
    nodes.forget(two, 1);
    nodes.forget(one, 2);
    EXPECT_EQ(nodes.size(), 1U);
}

TEST_F(PathNodesTest, ChangePlacesInAnExchange) {
    const std::uint64_t directory = give(root, "dir");
    const std::uint64_t inner = give(directory, "inner");
    const std::uint64_t outer = give(root, "outer");
    const std::uint64_t below = give(outer, "below");
    nodes.renamed(directory, "inner", root, "outer", true);
    EXPECT_EQ(path(inner), "/outer");
    EXPECT_EQ(path(outer), "/dir/inner");
    EXPECT_EQ(path(below), "/dir/inner/below");
    for (const std::uint64_t node : {directory, inner, outer, below}) {
        nodes.forget(node, 1);
    }
    EXPECT_EQ(nodes.size(), 1U);
}

TEST_F(PathNodesTest, AreNotFoundUnderARemovedName) {
    const std::uint64_t old = give(root, "file");
    nodes.removed(root, "file");
    EXPECT_EQ(path(old), "/file");
    const std::uint64_t fresh = give(root, "file");
    EXPECT_NE(fresh, old);
    nodes.removed(root, "other");
    nodes.forget(old, 1);
    EXPECT_EQ(path(fresh), "/file");
    nodes.forget(fresh, 1);
    EXPECT_EQ(nodes.size(), 1U);
}

TEST_F(PathNodesTest, NeverComeToLieBelowThemselves) {
    const std::uint64_t directory = give(root, "dir");
    const std::uint64_t inner = give(directory, "inner");
    nodes.renamed(root, "dir", inner, "knot", false);
    EXPECT_EQ(path(inner), "/dir/inner");
    nodes.renamed(directory, "inner", root, "dir", true);
    EXPECT_EQ(path(inner), "/dir/inner");
}

TEST_F(PathNodesTest, RenameWhatNobodyHoldsWithoutATrace) {
    nodes.renamed(root, "unknown", root, "other", false);
    EXPECT_EQ(nodes.size(), 1U);
    const std::uint64_t other = give(root, "other");
    nodes.renamed(root, "unknown", root, "other", false);
    EXPECT_NE(give(root, "other"), other);
    nodes.forget(other, 1);
    EXPECT_EQ(nodes.held(), 1U);
}

}  // namespace
}  // namespace vmthaw
