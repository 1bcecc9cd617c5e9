#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "filesystem/memory_fs.hpp"
#include "fuse/fuse_dispatcher.hpp"
#include "fuse_protocol/fuse_replies.hpp"
#include "fuse_protocol/fuse_requests.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {

using Bytes = std::vector<std::byte>;

// With memcpy, and never inline: GCC 12 sees an overflow in both where there is none.
[[gnu::noinline]] inline void append_bytes(Bytes& bytes, std::span<const std::byte> part) {
    const std::size_t at = bytes.size();
    bytes.resize(at + part.size());
    if (!part.empty()) {
        std::memcpy(bytes.data() + at, part.data(), part.size());
    }
}

template <typename Structure>
void append(Bytes& bytes, const Structure& structure) {
    append_bytes(bytes, std::as_bytes(std::span(&structure, 1)));
}

// A text with the NUL behind it.
inline void append_text(Bytes& bytes, std::string_view text) {
    append_bytes(bytes, std::as_bytes(std::span(text)));
    bytes.resize(bytes.size() + 1);
}

struct Answer {
    bool replied = false;
    int error = 0;
    Bytes body;

    template <typename Structure>
    [[nodiscard]] Structure as(std::size_t at = 0) const {
        Structure structure{};
        EXPECT_LE(at + sizeof structure, body.size());
        if (at + sizeof structure <= body.size()) {
            std::memcpy(&structure, body.data() + at, sizeof structure);
        }
        return structure;
    }
    [[nodiscard]] std::string text() const { return {reinterpret_cast<const char*>(body.data()), body.size()}; }
};

struct ListedName {
    std::string name;
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
    std::uint64_t node = 0;  // readdirplus
};

// Plays the kernel: makes requests of bytes, and reads the replies' bytes.
class FuseClient {
public:
    explicit FuseClient(FuseDispatcher& dispatcher) : dispatcher_(dispatcher), space_(dispatcher.max_reply_bytes()) {}

    [[nodiscard]] static Bytes frame(FuseOpcode opcode, std::uint64_t node, const Bytes& body,
                                     std::uint64_t unique = 2) {
        FuseInHeader header;
        header.len = static_cast<std::uint32_t>(sizeof header + body.size());
        header.opcode = static_cast<std::uint32_t>(opcode);
        header.unique = unique;
        header.nodeid = node;
        header.uid = 1000;
        header.gid = 1001;
        header.pid = 7;
        Bytes request;
        append(request, header);
        append_bytes(request, body);
        return request;
    }
    Answer send(const Bytes& request) {
        const std::size_t size = dispatcher_.dispatch(request, space_);
        return read_reply(std::span<const std::byte>(space_).first(size));
    }
    Answer ask(FuseOpcode opcode, std::uint64_t node, const Bytes& body = {}) {
        return send(frame(opcode, node, body));
    }
    template <typename Structure>
    Answer ask(FuseOpcode opcode, std::uint64_t node, const Structure& structure, std::string_view name = {},
               std::string_view second = {}) {
        Bytes body;
        append(body, structure);
        if (!name.empty()) {
            append_text(body, name);
        }
        if (!second.empty()) {
            append_text(body, second);
        }
        return ask(opcode, node, body);
    }
    Answer ask_name(FuseOpcode opcode, std::uint64_t node, std::string_view name) {
        Bytes body;
        append_text(body, name);
        return ask(opcode, node, body);
    }
    static Answer read_reply(std::span<const std::byte> reply) {
        Answer answer;
        FuseOutHeader header;
        if (reply.size() < sizeof header) {
            return answer;
        }
        std::memcpy(&header, reply.data(), sizeof header);
        EXPECT_EQ(header.len, reply.size());
        answer.replied = true;
        answer.error = -header.error;
        answer.body.assign(reply.begin() + sizeof header, reply.end());
        return answer;
    }

    static FuseInitIn offer(std::uint64_t flags = ~0ULL, std::uint32_t minor = kFuseMinor) {
        FuseInitIn init;
        init.major = kFuseMajor;
        init.minor = minor;
        init.max_readahead = 1U << 20;
        init.flags = static_cast<std::uint32_t>(flags);
        init.flags2 = static_cast<std::uint32_t>(flags >> 32);
        return init;
    }
    FuseInitOut begin(std::uint64_t flags = ~0ULL) {
        const Answer answer = ask(FuseOpcode::init, 0, offer(flags));
        EXPECT_EQ(answer.error, 0);
        return answer.as<FuseInitOut>();
    }

    FuseEntryOut lookup(std::uint64_t parent, std::string_view name) {
        const Answer answer = ask_name(FuseOpcode::lookup, parent, name);
        EXPECT_EQ(answer.error, 0) << name;
        return answer.as<FuseEntryOut>();
    }
    std::uint64_t mkdir(std::uint64_t parent, std::string_view name) {
        const Answer answer = ask(FuseOpcode::mkdir, parent, FuseMkdirIn{0755, 0}, name);
        EXPECT_EQ(answer.error, 0) << name;
        return answer.as<FuseEntryOut>().nodeid;
    }
    std::pair<std::uint64_t, std::uint64_t> create(std::uint64_t parent, std::string_view name,
                                                   std::uint32_t mode = 0644, std::uint32_t flags = 2) {
        const Answer answer = ask(FuseOpcode::create, parent, FuseCreateIn{flags, S_IFREG | mode, 0, 0}, name);
        EXPECT_EQ(answer.error, 0) << name;
        return {answer.as<FuseEntryOut>().nodeid, answer.as<FuseOpenOut>(sizeof(FuseEntryOut)).fh};
    }
    Answer write(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::string_view text,
                 std::uint32_t write_flags = 0) {
        Bytes body;
        append(body, FuseWriteIn{handle, offset, static_cast<std::uint32_t>(text.size()), write_flags, 0, 0, 0});
        append_bytes(body, std::as_bytes(std::span(text)));
        return ask(FuseOpcode::write, node, body);
    }
    Answer read(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
        return ask(FuseOpcode::read, node, FuseReadIn{handle, offset, size, 0, 0, 0, 0});
    }
    FuseAttr getattr(std::uint64_t node) {
        const Answer answer = ask(FuseOpcode::getattr, node, FuseGetattrIn{});
        EXPECT_EQ(answer.error, 0);
        return answer.as<FuseAttrOut>().attr;
    }
    void forget(std::uint64_t node, std::uint64_t count = 1) {
        EXPECT_FALSE(ask(FuseOpcode::forget, node, FuseForgetIn{count}).replied);
    }
    int release(std::uint64_t node, std::uint64_t handle) {
        return ask(FuseOpcode::release, node, FuseReleaseIn{handle, 0, 0, 0}).error;
    }
    int rename(std::uint64_t from, std::string_view name, std::uint64_t to, std::string_view new_name,
               std::uint32_t flags = 0) {
        return ask(FuseOpcode::rename2, from, FuseRename2In{to, flags, 0}, name, new_name).error;
    }
    std::vector<ListedName> list(std::uint64_t node, bool plus = false, std::uint32_t size = 4096) {
        const std::uint64_t handle = ask(FuseOpcode::opendir, node, FuseOpenIn{}).as<FuseOpenOut>().fh;
        std::vector<ListedName> names;
        for (std::uint64_t offset = 0;;) {
            const Answer answer = ask(plus ? FuseOpcode::readdirplus : FuseOpcode::readdir, node,
                                      FuseReadIn{handle, offset, size, 0, 0, 0, 0});
            EXPECT_EQ(answer.error, 0);
            if (answer.body.empty()) {
                break;
            }
            read_entries(answer, plus, names);
            offset = names.back().offset;
        }
        EXPECT_EQ(ask(FuseOpcode::releasedir, node, FuseReleaseIn{handle, 0, 0, 0}).error, 0);
        return names;
    }
    static void read_entries(const Answer& answer, bool plus, std::vector<ListedName>& names) {
        for (std::size_t at = 0; at < answer.body.size();) {
            const std::size_t head = at + (plus ? sizeof(FuseEntryOut) : 0);
            const auto dirent = answer.as<FuseDirent>(head);
            const std::uint64_t node = plus ? answer.as<FuseEntryOut>(at).nodeid : 0;
            names.push_back(
                {answer.text().substr(head + sizeof dirent, dirent.namelen), dirent.type, dirent.off, node});
            at += (head - at + sizeof dirent + dirent.namelen + 7) / 8 * 8;
        }
    }

    [[nodiscard]] FuseDispatcher& dispatcher() const { return dispatcher_; }

private:
    FuseDispatcher& dispatcher_;
    Bytes space_;
};

// A client with a file system in memory, after INIT.
class MemoryFsTest : public ::testing::Test {
protected:
    MemoryFsTest() { client.begin(); }

    std::shared_ptr<MemoryFs> fs = std::make_shared<MemoryFs>(MemoryFsConfig{64U << 20U, 1000, 0, 0, 0755});
    FuseDispatcher dispatcher{fs};
    FuseClient client{dispatcher};
    static constexpr std::uint64_t root = kFuseRootNode;
};

}  // namespace vmthaw
