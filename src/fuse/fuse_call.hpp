#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "filesystem/file_system.hpp"
#include "fuse/dax_target.hpp"
#include "fuse/fuse_session.hpp"
#include "fuse_protocol/fuse_replies.hpp"
#include "fuse_protocol/reply_writer.hpp"
#include "fuse_protocol/request_reader.hpp"

namespace vmthaw {

// One request on its way: what a handler reads from and writes to. Lives for that request, on its thread.
struct FuseCall {
    FileSystem& file_system;
    DaxTarget* dax;
    const FuseSession& session;
    RequestReader& in;
    ReplyWriter& out;
    FileBytes* file_bytes;

    std::size_t elsewhere_bytes = 0;  // of the reply, in *file_bytes
    bool silent = false;              // no reply

    [[nodiscard]] std::uint64_t node() const noexcept { return in.header().nodeid; }
    [[nodiscard]] FuseCaller caller() const noexcept {
        const FuseInHeader& header = in.header();
        return {header.unique, header.uid, header.gid, header.pid};
    }
    [[nodiscard]] FuseAttr wire(std::uint64_t node, const FuseAttr& attr, std::string_view name) const noexcept;
    [[nodiscard]] FuseEntryOut wire(const NodeEntry& entry, std::string_view name) const noexcept;
    // The same, without the question whether it uses DAX.
    [[nodiscard]] FuseEntryOut wire_unasked(const NodeEntry& entry) const noexcept;
    [[nodiscard]] FuseAttrOut wire(std::uint64_t node, const NodeAttributes& attributes) const noexcept;
    void forget(std::uint64_t forgotten, std::uint64_t lookups) const noexcept {
        file_system.forget(forgotten, lookups);
        if (dax != nullptr) {
            dax->forgotten(forgotten);
        }
    }
    // Puts `answer` if `error` is 0, and passes `error` on.
    template <typename Structure>
    [[nodiscard]] int reply(int error, const Structure& answer) const noexcept {
        if (error == 0) {
            out.put(answer);
        }
        return error;
    }
};

// How one kind of request is answered: 0 with the reply's body written, or a positive errno. A handler takes all of its
// request before the file system hears of it.
struct FuseHandler {
    int (*run)(FuseCall&) noexcept = nullptr;
    std::uint16_t reply_bytes = 0;  // of the body, if it fits: checked first, so that no answer is lost after the deed
    bool silent = false;            // never answered
};

// The handler of an opcode; `run` is null for one that nobody knows. INIT and DESTROY are the dispatcher's own.
[[nodiscard]] FuseHandler fuse_handler(std::uint32_t opcode) noexcept;

}  // namespace vmthaw
