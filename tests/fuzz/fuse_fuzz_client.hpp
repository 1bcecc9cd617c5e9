#pragma once

#include <fuzzer/FuzzedDataProvider.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "filesystem/memory_fs.hpp"
#include "fuse/fuse_dispatcher.hpp"
#include "fuse_protocol/fuse_replies.hpp"
#include "fuse_protocol/fuse_requests.hpp"
#include "fuzz_check.hpp"
#include "kernel/fuse.hpp"

namespace vmthaw {

// Makes requests of an input's bytes and keeps account of what the replies gave.
class FuseFuzzClient {
public:
    FuseFuzzClient(FuseDispatcher& dispatcher, MemoryFs& fs, FuzzedDataProvider& input)
        : dispatcher_(dispatcher), fs_(fs), input_(input), reply_(dispatcher.max_reply_bytes()) {}

    void begin() {
        FuseInitIn offer;
        offer.major = kFuseMajor;
        offer.minor = kFuseMinor;
        offer.flags = input_.ConsumeIntegral<std::uint32_t>();
        start(FuseOpcode::init, 0);
        put(offer);
        send();
    }

    void step() {
        const auto opcode = static_cast<FuseOpcode>(input_.ConsumeIntegralInRange<std::uint32_t>(0, 56));
        start(opcode, node());
        body(opcode);
        // Now and then a cut, a wrong byte, or something behind the end.
        const std::uint8_t harm = input_.ConsumeIntegral<std::uint8_t>();
        if (harm < 8 && request_.size() > sizeof(FuseInHeader)) {
            request_.resize(sizeof(FuseInHeader) + harm % (request_.size() - sizeof(FuseInHeader)));
        } else if (harm < 16) {
            // Behind opcode and node id, so that the account knows what was asked.
            const std::size_t at = sizeof(FuseInHeader) + input_.ConsumeIntegral<std::uint8_t>();
            if (at < request_.size() && !is_forget(opcode)) {
                request_[at] = input_.ConsumeIntegral<std::uint8_t>();
            }
        } else if (harm < 24) {
            request_.insert(request_.end(), harm, 0xa5);
        }
        send(harm == 30);
    }

    void check() const {
        FUZZ_CHECK(fs_.held_nodes() == lookups_.size());
        FUZZ_CHECK(fs_.open_handles() == handles_.size());
        FUZZ_CHECK(fs_.used_bytes() <= (1U << 18U));
    }

    void give_everything_back() {
        while (!handles_.empty()) {
            const auto [handle, owner] = *handles_.begin();
            start(owner.directory ? FuseOpcode::releasedir : FuseOpcode::release, owner.node);
            put(FuseReleaseIn{handle, 0, 0, 0});
            send();
        }
        while (!lookups_.empty()) {
            const auto [node, count] = *lookups_.begin();
            start(FuseOpcode::forget, node);
            put(FuseForgetIn{count});
            send();
        }
    }

private:
    struct Owner {
        std::uint64_t node = 0;
        bool directory = false;
    };

    static bool is_forget(FuseOpcode opcode) {
        return opcode == FuseOpcode::forget || opcode == FuseOpcode::batch_forget;
    }
    void start(FuseOpcode opcode, std::uint64_t node) {
        request_.assign(sizeof(FuseInHeader), 0);
        FuseInHeader header;
        header.opcode = static_cast<std::uint32_t>(opcode);
        header.unique = 4;
        header.nodeid = node;
        header.uid = 1000;
        std::memcpy(request_.data(), &header, sizeof header);
    }
    template <typename Structure>
    void put(const Structure& structure) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(&structure);
        request_.insert(request_.end(), bytes, bytes + sizeof structure);
    }
    void put_name() {
        static constexpr std::array<std::string_view, 8> names = {"a", "b", "c", "dir", ".", "..", "e/f", ""};
        const std::size_t choice = input_.ConsumeIntegralInRange<std::size_t>(0, 11);
        const std::string name = choice < names.size() ? std::string(names[choice])
                                 : choice == 8         ? std::string(input_.ConsumeIntegral<std::uint8_t>() + 1, 'n')
                                                       : std::string(names[choice % 4]);
        request_.insert(request_.end(), name.begin(), name.end());
        request_.push_back(0);
    }
    std::uint64_t node() {
        const std::uint8_t choice = input_.ConsumeIntegral<std::uint8_t>();
        if (choice == 255) {
            return input_.ConsumeIntegral<std::uint64_t>();
        }
        if (choice < 80 || lookups_.empty()) {
            return kFuseRootNode;
        }
        auto chosen = lookups_.begin();
        std::advance(chosen, choice % lookups_.size());
        return chosen->first;
    }
    // A handle, and in the header the node that it belongs to.
    std::uint64_t handle() {
        const std::uint8_t choice = input_.ConsumeIntegral<std::uint8_t>();
        if (choice == 255 || handles_.empty()) {
            return input_.ConsumeIntegral<std::uint64_t>();
        }
        auto chosen = handles_.begin();
        std::advance(chosen, choice % handles_.size());
        if (choice < 240) {
            std::memcpy(request_.data() + offsetof(FuseInHeader, nodeid), &chosen->second.node, sizeof(std::uint64_t));
        }
        return chosen->first;
    }
    std::uint64_t offset() {
        const std::uint8_t choice = input_.ConsumeIntegral<std::uint8_t>();
        return choice > 250   ? input_.ConsumeIntegral<std::uint64_t>()
               : choice > 240 ? static_cast<std::uint64_t>(INT64_MAX) - choice
                              : std::uint64_t{choice} * 1000;
    }
    std::uint32_t length() {
        const std::uint8_t choice = input_.ConsumeIntegral<std::uint8_t>();
        return choice > 250 ? input_.ConsumeIntegral<std::uint32_t>() : choice * 60U;
    }
    std::uint32_t flags() { return input_.ConsumeIntegral<std::uint32_t>(); }
    std::uint32_t few_flags() { return input_.ConsumeIntegralInRange<std::uint32_t>(0, 15); }

    void body(FuseOpcode opcode);
    void names_body(FuseOpcode opcode);
    void files_body(FuseOpcode opcode);
    void send(bool lose_reply = false);
    void account(const FuseInHeader& header, std::span<const std::uint8_t> body);
    void account_forgets(const FuseInHeader& header);
    void gave(const FuseEntryOut& entry) {
        if (entry.nodeid != 0 && entry.nodeid != kFuseRootNode) {
            FUZZ_CHECK(entry.generation != 0);
            ++lookups_[entry.nodeid];
        }
    }
    void took(std::uint64_t node, std::uint64_t count) {
        const auto found = lookups_.find(node);
        if (found != lookups_.end()) {
            found->second -= std::min(found->second, count);
            if (found->second == 0) {
                lookups_.erase(found);
            }
        }
    }
    template <typename Structure>
    static Structure read(std::span<const std::uint8_t> bytes, std::size_t at = 0) {
        Structure structure{};
        FUZZ_CHECK(at <= bytes.size() && bytes.size() - at >= sizeof structure);
        std::memcpy(&structure, bytes.data() + at, sizeof structure);
        return structure;
    }

    FuseDispatcher& dispatcher_;
    MemoryFs& fs_;
    FuzzedDataProvider& input_;
    std::vector<std::uint8_t> request_;
    std::vector<std::uint8_t> reply_;
    std::map<std::uint64_t, std::uint64_t> lookups_;
    std::map<std::uint64_t, Owner> handles_;
};

inline void FuseFuzzClient::send(bool lose_reply) {
    const auto size = static_cast<std::uint32_t>(request_.size());
    std::memcpy(request_.data(), &size, sizeof size);
    const auto request = std::as_bytes(std::span(request_));
    const auto space = std::as_writable_bytes(std::span(reply_));
    // Some replies have less room than they need; never less than what tells whether it was done.
    const std::size_t room = lose_reply || input_.ConsumeIntegral<std::uint8_t>() != 0
                                 ? space.size()
                                 : sizeof(FuseOutHeader) + input_.ConsumeIntegral<std::uint8_t>();
    const std::size_t replied = dispatcher_.dispatch(request, space.first(room));
    FUZZ_CHECK(replied <= room);
    FuseInHeader header;
    std::memcpy(&header, request_.data(), sizeof header);
    if (replied == 0) {
        account_forgets(header);
        return;
    }
    const auto reply = std::span<const std::uint8_t>(reply_).first(replied);
    const auto told = read<FuseOutHeader>(reply);
    FUZZ_CHECK(told.len == replied && told.unique == header.unique && told.error <= 0 && told.error > -4096);
    FUZZ_CHECK(told.error == 0 || replied == sizeof told);
    if (lose_reply) {
        dispatcher_.undelivered(request, space.first(replied));
        // What an undelivered release or forget did is done all the same.
        const auto opcode = static_cast<FuseOpcode>(header.opcode);
        if (opcode != FuseOpcode::release && opcode != FuseOpcode::releasedir && opcode != FuseOpcode::init &&
            opcode != FuseOpcode::destroy) {
            return;
        }
    }
    account(header, reply.subspan(sizeof told));
    if (told.error != 0 && header.opcode == static_cast<std::uint32_t>(FuseOpcode::destroy)) {
        FUZZ_CHECK(lookups_.empty());
    }
}

inline void FuseFuzzClient::account_forgets(const FuseInHeader& header) {
    const auto body = std::span<const std::uint8_t>(request_).subspan(sizeof header);
    if (!dispatcher_.initialized()) {
        return;
    }
    if (header.opcode == static_cast<std::uint32_t>(FuseOpcode::forget) && body.size() >= sizeof(FuseForgetIn)) {
        took(header.nodeid, read<FuseForgetIn>(body).nlookup);
    } else if (header.opcode == static_cast<std::uint32_t>(FuseOpcode::batch_forget) &&
               body.size() >= sizeof(FuseBatchForgetIn)) {
        const std::uint64_t count = read<FuseBatchForgetIn>(body).count;
        if (count * sizeof(FuseForgetOne) <= body.size() - sizeof(FuseBatchForgetIn)) {
            for (std::size_t i = 0; i < count; ++i) {
                const auto one = read<FuseForgetOne>(body, sizeof(FuseBatchForgetIn) + i * sizeof(FuseForgetOne));
                took(one.nodeid, one.nlookup);
            }
        }
    }
}

inline void FuseFuzzClient::account(const FuseInHeader& header, std::span<const std::uint8_t> body) {
    switch (static_cast<FuseOpcode>(header.opcode)) {
        case FuseOpcode::init:
        case FuseOpcode::destroy:
            if (fs_.held_nodes() == 0 && fs_.open_handles() == 0) {
                lookups_.clear();
                handles_.clear();
            }
            return;
        case FuseOpcode::lookup:
        case FuseOpcode::symlink:
        case FuseOpcode::mknod:
        case FuseOpcode::mkdir:
        case FuseOpcode::link:
            if (!body.empty()) {
                gave(read<FuseEntryOut>(body));
            }
            return;
        case FuseOpcode::create:
        case FuseOpcode::tmpfile:
            if (!body.empty()) {
                gave(read<FuseEntryOut>(body));
                handles_[read<FuseOpenOut>(body, sizeof(FuseEntryOut)).fh] = {read<FuseEntryOut>(body).nodeid, false};
            }
            return;
        case FuseOpcode::open:
        case FuseOpcode::opendir:
            if (!body.empty()) {
                handles_[read<FuseOpenOut>(body).fh] = {
                    header.nodeid, header.opcode == static_cast<std::uint32_t>(FuseOpcode::opendir)};
            }
            return;
        case FuseOpcode::release:
        case FuseOpcode::releasedir: {
            FuseOutHeader told;
            std::memcpy(&told, reply_.data(), sizeof told);
            if (told.error == 0) {
                handles_.erase(read<FuseReleaseIn>(request_, sizeof header).fh);
            }
            return;
        }
        case FuseOpcode::readdirplus:
            for (std::size_t at = 0; at < body.size();) {
                const auto record = read<FuseDirentPlus>(body, at);
                FUZZ_CHECK(record.dirent.namelen > 0 && record.dirent.namelen <= 255);
                gave(record.entry_out);
                at += (sizeof record + record.dirent.namelen + 7) / 8 * 8;
            }
            return;
        default:
            return;
    }
}

}  // namespace vmthaw
