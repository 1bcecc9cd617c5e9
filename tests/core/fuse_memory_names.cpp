#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

#include "base/error.hpp"
#include "fuse_client.hpp"

// Names in a MemoryFs: what POSIX says of them, as the kernel would ask.
namespace vmthaw {
namespace {

using MemoryFsNames = MemoryFsTest;

TEST(MemoryFs, RefusesAConfigurationThatMakesNoSense) {
    EXPECT_THROW(MemoryFs(MemoryFsConfig{0, 0, 0, 0, 0755}), ArgumentError);
    EXPECT_THROW(MemoryFs(MemoryFsConfig{0, 1, 0, 0, S_IFREG | 0755}), ArgumentError);
}

TEST_F(MemoryFsNames, GivesNewFilesToTheirCallerWithTheModeAsked) {
    const auto [node, handle] = client.create(root, "file", 0640);
    const FuseAttr attr = client.getattr(node);
    EXPECT_EQ(attr.mode, S_IFREG | 0640U);
    EXPECT_EQ(attr.uid, 1000U);
    EXPECT_EQ(attr.gid, 1001U);
    EXPECT_EQ(attr.nlink, 1U);
    EXPECT_EQ(attr.ino, node);
    EXPECT_EQ(client.getattr(client.mkdir(root, "dir")).mode, S_IFDIR | 0755U);
    EXPECT_EQ(client.release(node, handle), 0);
}

TEST_F(MemoryFsNames, HandsTheGroupOfASetgidDirectoryDown) {
    const std::uint64_t directory = client.mkdir(root, "dir");
    FuseSetattrIn change;
    change.valid = kFattrMode | kFattrGid;
    change.mode = 02775;
    change.gid = 50;
    EXPECT_EQ(client.ask(FuseOpcode::setattr, directory, change).error, 0);
    EXPECT_EQ(client.getattr(client.create(directory, "file").first).gid, 50U);
    EXPECT_EQ(client.getattr(client.create(directory, "other").first).mode & S_ISGID, 0U);
    const FuseAttr inner = client.getattr(client.mkdir(directory, "inner"));
    EXPECT_EQ(inner.gid, 50U);
    EXPECT_NE(inner.mode & S_ISGID, 0U);
}

TEST_F(MemoryFsNames, CountsTheLinksOfDirectoriesAndFiles) {
    const std::uint64_t directory = client.mkdir(root, "dir");
    EXPECT_EQ(client.getattr(root).nlink, 3U);
    EXPECT_EQ(client.getattr(directory).nlink, 2U);
    client.mkdir(directory, "inner");
    EXPECT_EQ(client.getattr(directory).nlink, 3U);
    const auto [node, handle] = client.create(directory, "file");
    EXPECT_EQ(client.ask(FuseOpcode::link, root, FuseLinkIn{node}, "second").as<FuseEntryOut>().nodeid, node);
    EXPECT_EQ(client.getattr(node).nlink, 2U);
    EXPECT_EQ(client.ask(FuseOpcode::link, root, FuseLinkIn{directory}, "no").error, EPERM);
    EXPECT_EQ(client.ask(FuseOpcode::link, root, FuseLinkIn{node}, "second").error, EEXIST);
    EXPECT_EQ(client.ask_name(FuseOpcode::unlink, directory, "file").error, 0);
    EXPECT_EQ(client.getattr(node).nlink, 1U);
    EXPECT_EQ(client.release(node, handle), 0);
}

TEST_F(MemoryFsNames, AnswerTheErrnosOfUnlinkAndRmdir) {
    const std::uint64_t directory = client.mkdir(root, "dir");
    client.create(directory, "file");
    EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, "dir").error, EISDIR);
    EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, "none").error, ENOENT);
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "none").error, ENOENT);
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "dir").error, ENOTEMPTY);
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, directory, "file").error, ENOTDIR);
    EXPECT_EQ(client.ask(FuseOpcode::mkdir, root, FuseMkdirIn{}, "dir").error, EEXIST);
    const std::uint64_t file = client.lookup(directory, "file").nodeid;
    EXPECT_EQ(client.ask_name(FuseOpcode::lookup, file, "below").error, ENOTDIR);
}

TEST_F(MemoryFsNames, MakeNothingInADirectoryThatWasRemoved) {
    const std::uint64_t directory = client.mkdir(root, "dir");
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "dir").error, 0);
    EXPECT_EQ(client.ask(FuseOpcode::mkdir, directory, FuseMkdirIn{}, "x").error, ENOENT);
    client.create(root, "file");
    EXPECT_EQ(client.rename(root, "file", directory, "x"), ENOENT);
    EXPECT_EQ(client.getattr(directory).nlink, 0U);
    client.forget(directory);
    EXPECT_EQ(fs->files(), 2U);
}

TEST_F(MemoryFsNames, KeepAnUnlinkedFileUntilItsLastHandleGoes) {
    const auto [node, handle] = client.create(root, "file");
    client.write(node, handle, 0, "still here");
    EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, "file").error, 0);
    EXPECT_EQ(client.read(node, handle, 0, 100).text(), "still here");
    EXPECT_EQ(client.getattr(node).nlink, 0U);
    client.forget(node);
    EXPECT_EQ(client.read(node, handle, 0, 100).text(), "still here");
    EXPECT_EQ(fs->files(), 2U);
    EXPECT_EQ(client.release(node, handle), 0);
    EXPECT_EQ(fs->files(), 1U);
    EXPECT_EQ(fs->used_bytes(), 0U);
}

TEST_F(MemoryFsNames, RenameAndReplaceAsPosixSays) {
    const std::uint64_t one = client.mkdir(root, "one");
    const std::uint64_t two = client.mkdir(root, "two");
    client.create(one, "file");
    EXPECT_EQ(client.rename(one, "file", two, "moved"), 0);
    EXPECT_EQ(client.ask_name(FuseOpcode::lookup, one, "file").error, ENOENT);
    EXPECT_EQ(client.rename(root, "one", two, "moved"), ENOTDIR);
    EXPECT_EQ(client.rename(two, "moved", root, "one"), EISDIR);
    EXPECT_EQ(client.rename(root, "one", root, "two"), ENOTEMPTY);
    EXPECT_EQ(client.rename(root, "two", two, "knot"), EINVAL);
    EXPECT_EQ(client.rename(root, "two", root, "one"), 0);
    EXPECT_EQ(client.getattr(root).nlink, 3U);
    EXPECT_EQ(client.getattr(one).nlink, 0U);
    EXPECT_EQ(client.rename(root, "one", one, "gone"), ENOENT);
    EXPECT_EQ(client.rename(root, "none", root, "x"), ENOENT);
}

TEST_F(MemoryFsNames, MoveADirectoryWithItsLinksAndItsWayUp) {
    const std::uint64_t one = client.mkdir(root, "one");
    const std::uint64_t inner = client.mkdir(one, "inner");
    const std::uint64_t two = client.mkdir(root, "two");
    EXPECT_EQ(client.rename(one, "inner", two, "inner"), 0);
    EXPECT_EQ(client.getattr(one).nlink, 2U);
    EXPECT_EQ(client.getattr(two).nlink, 3U);
    EXPECT_EQ(client.lookup(inner, "..").nodeid, two);
    EXPECT_EQ(client.lookup(inner, ".").nodeid, inner);
    EXPECT_EQ(client.lookup(root, "..").nodeid, root);
}

TEST_F(MemoryFsNames, LeaveBothNamesOfOneFileWhenOneIsRenamedToTheOther) {
    const auto [node, handle] = client.create(root, "one");
    client.ask(FuseOpcode::link, root, FuseLinkIn{node}, "two");
    EXPECT_EQ(client.rename(root, "one", root, "two"), 0);
    EXPECT_EQ(client.getattr(node).nlink, 2U);
    EXPECT_EQ(client.lookup(root, "one").nodeid, node);
    EXPECT_EQ(client.release(node, handle), 0);
}

TEST_F(MemoryFsNames, ObeyTheFlagsOfRename) {
    const std::uint64_t directory = client.mkdir(root, "dir");
    const std::uint64_t file = client.create(directory, "file").first;
    EXPECT_EQ(client.rename(directory, "file", root, "dir", kRenameNoReplace), EEXIST);
    EXPECT_EQ(client.rename(directory, "file", root, "none", kRenameExchange), ENOENT);
    EXPECT_EQ(client.rename(directory, "file", root, "dir", kRenameExchange), EINVAL);
    const std::uint64_t other = client.mkdir(root, "other");
    EXPECT_EQ(client.rename(directory, "file", root, "other", kRenameExchange), 0);
    EXPECT_EQ(client.lookup(root, "other").nodeid, file);
    EXPECT_EQ(client.lookup(directory, "file").nodeid, other);
    EXPECT_EQ(client.getattr(directory).nlink, 3U);
    EXPECT_EQ(client.getattr(root).nlink, 3U);
    EXPECT_EQ(client.lookup(other, "..").nodeid, directory);
    EXPECT_EQ(client.rename(directory, "file", root, "dir", kRenameWhiteout), EINVAL);
    EXPECT_EQ(client.rename(directory, "file", root, "moved", kRenameNoReplace), 0);
}

TEST_F(MemoryFsNames, ListEverythingOnceWhateverComesAndGoesMeanwhile) {
    for (int i = 0; i < 100; ++i) {
        client.create(root, "file" + std::to_string(i));
    }
    const std::uint64_t handle = client.ask(FuseOpcode::opendir, root, FuseOpenIn{}).as<FuseOpenOut>().fh;
    std::vector<ListedName> names;
    for (int round = 0;; ++round) {
        const std::uint64_t offset = names.empty() ? 0 : names.back().offset;
        const Answer answer = client.ask(FuseOpcode::readdir, root, FuseReadIn{handle, offset, 300, 0, 0, 0, 0});
        if (answer.body.empty()) {
            break;
        }
        FuseClient::read_entries(answer, false, names);
        // Of what was seen, and new ones.
        EXPECT_EQ(client.ask_name(FuseOpcode::unlink, root, names.back().name).error, 0);
        if (round < 3) {
            client.create(root, "new" + std::to_string(round));
        }
    }
    std::set<std::string> unique;
    for (const ListedName& name : names) {
        EXPECT_TRUE(unique.insert(name.name).second) << name.name;
    }
    EXPECT_EQ(unique.size(), 105U);
    EXPECT_EQ(names[0].name, ".");
    EXPECT_EQ(names[1].name, "..");
    EXPECT_EQ(names[0].type, 4U);
    EXPECT_EQ(names[2].type, 8U);
}

TEST_F(MemoryFsNames, CountALookUpForEachEntryOfReaddirplusThatFitted) {
    for (int i = 0; i < 10; ++i) {
        const auto [node, handle] = client.create(root, "file" + std::to_string(i));
        client.release(node, handle);
        client.forget(node);
    }
    EXPECT_EQ(fs->held_nodes(), 0U);
    const std::uint64_t handle = client.ask(FuseOpcode::opendir, root, FuseOpenIn{}).as<FuseOpenOut>().fh;
    const Answer answer = client.ask(FuseOpcode::readdirplus, root, FuseReadIn{handle, 0, 1000, 0, 0, 0, 0});
    std::vector<ListedName> names;
    FuseClient::read_entries(answer, true, names);
    EXPECT_EQ(names.size(), 6U);
    EXPECT_EQ(fs->held_nodes(), names.size() - 2);
    EXPECT_EQ(names[0].node, 0U);
    for (std::size_t i = 2; i < names.size(); ++i) {
        client.forget(names[i].node);
    }
    EXPECT_EQ(fs->held_nodes(), 0U);
    EXPECT_EQ(client.list(root, true).size(), 12U);
}

TEST_F(MemoryFsNames, MakeLinksAndSpecialFiles) {
    Bytes body;
    append_text(body, "link");
    append_text(body, "over/there");
    const std::uint64_t link = client.ask(FuseOpcode::symlink, root, body).as<FuseEntryOut>().nodeid;
    EXPECT_EQ(client.ask(FuseOpcode::readlink, link).text(), "over/there");
    EXPECT_EQ(client.getattr(link).size, 10U);
    EXPECT_EQ(client.getattr(link).mode, S_IFLNK | 0777U);
    EXPECT_EQ(client.ask(FuseOpcode::readlink, root).error, EINVAL);
    EXPECT_EQ(client.ask(FuseOpcode::open, link, FuseOpenIn{}).error, ELOOP);
    for (const std::uint32_t type : {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG}) {
        const Answer made = client.ask(FuseOpcode::mknod, root, FuseMknodIn{type | 0600U, 0x501, 0, 0},
                                       "special" + std::to_string(type));
        EXPECT_EQ(made.error, 0);
        const FuseAttr attr = made.as<FuseEntryOut>().attr;
        EXPECT_EQ(attr.mode, type | 0600U);
        EXPECT_EQ(attr.rdev, type == S_IFCHR || type == S_IFBLK ? 0x501U : 0U);
    }
}

TEST_F(MemoryFsNames, EndWhenTheConfiguredNumberIsReached) {
    int made = 0;
    while (client.ask(FuseOpcode::mkdir, root, FuseMkdirIn{0755, 0}, "dir" + std::to_string(made)).error == 0) {
        ++made;
    }
    EXPECT_EQ(made, 1000);
    EXPECT_EQ(client.ask(FuseOpcode::mkdir, root, FuseMkdirIn{0755, 0}, "one more").error, ENOSPC);
    EXPECT_EQ(client.ask(FuseOpcode::tmpfile, root, FuseCreateIn{2, S_IFREG | 0600, 0, 0}).error, ENOSPC);
    EXPECT_EQ(client.ask(FuseOpcode::statfs, root).as<FuseStatfs>().ffree, 0U);
    const std::uint64_t seventh = client.lookup(root, "dir7").nodeid;
    EXPECT_EQ(client.ask_name(FuseOpcode::rmdir, root, "dir7").error, 0);
    client.forget(seventh, 2);
    client.mkdir(root, "fits again");
}

TEST_F(MemoryFsNames, OpenTheFileThatSomebodyElseCreatedFirst) {
    const auto [node, handle] = client.create(root, "file");
    client.write(node, handle, 0, "content");
    EXPECT_EQ(client.create(root, "file").first, node);
    EXPECT_EQ(client.getattr(node).size, 7U);
    EXPECT_EQ(client.create(root, "file", 0644, O_RDWR | O_TRUNC).first, node);
    EXPECT_EQ(client.getattr(node).size, 0U);
    EXPECT_EQ(client.ask(FuseOpcode::create, root, FuseCreateIn{O_EXCL | 2, S_IFREG | 0644, 0, 0}, "file").error,
              EEXIST);
}

TEST_F(MemoryFsNames, GiveATemporaryFileANameLater) {
    const Answer made = client.ask(FuseOpcode::tmpfile, root, FuseCreateIn{2, S_IFREG | 0600, 0, 0}, "ignored");
    ASSERT_EQ(made.error, 0);
    const std::uint64_t node = made.as<FuseEntryOut>().nodeid;
    const std::uint64_t handle = made.as<FuseOpenOut>(sizeof(FuseEntryOut)).fh;
    EXPECT_EQ(client.getattr(node).nlink, 0U);
    EXPECT_EQ(client.list(root).size(), 2U);
    EXPECT_EQ(client.ask(FuseOpcode::link, root, FuseLinkIn{node}, "named").error, 0);
    EXPECT_EQ(client.getattr(node).nlink, 1U);
    EXPECT_EQ(client.release(node, handle), 0);
    const Answer lost = client.ask(FuseOpcode::tmpfile, root, FuseCreateIn{2, S_IFREG | 0600, 0, 0});
    client.forget(lost.as<FuseEntryOut>().nodeid);
    EXPECT_EQ(client.release(lost.as<FuseEntryOut>().nodeid, lost.as<FuseOpenOut>(sizeof(FuseEntryOut)).fh), 0);
    EXPECT_EQ(fs->files(), 2U);
}

}  // namespace
}  // namespace vmthaw
