#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dax/dax_session.hpp"
#include "dax_oracle.hpp"
#include "fuse_protocol/mapping_requests.hpp"

namespace vmthaw::oracle {

// Plays requests against a session and its double, chosen by numbers from anywhere (a generator, a fuzzer): Linux's
// sequences (set-up, upgrade, batch remove, abort, re-INIT), any ranges, hostile numbers, and a backend and a mapper
// that fail. `problem()` is empty as long as they agree.
class Play {
public:
    explicit Play(const DaxConfig& config)
        : config_(checked(config)),
          mapper_(std::make_shared<Mapper>(config_)),
          session_(std::make_unique<DaxSession>(backend_, mapper_, config_)),
          window_(config_) {}

    // One request; `next()` gives any number of 64 bits.
    template <typename Next>
    void step(Next next) {
        const std::uint64_t kind = next() % 16;
        if (kind < 5) {
            set_up(next() % (kNodes + 2), linux_set_up(next), 0, 0);
        } else if (kind < 7) {
            upgrade(next);
        } else if (kind < 9) {
            set_up(next() % (kNodes + 1), any_set_up(next), 0, 0);
        } else if (kind == 9) {
            const bool mapper = next() % 2 == 0;
            set_up(1 + next() % kNodes, any_set_up(next), mapper ? 0 : EACCES, mapper ? ENOMEM : 0);
        } else if (kind == 10) {
            set_up(next(), {next(), next() << next() % 64, next() << next() % 64, next() % 5, next() << next() % 64}, 0,
                   0);
        } else if (kind < 15) {
            remove_batch(next, kind == 14);
        } else if (next() % 32 == 0) {
            window_.reset();
            answer("reset", session_->reset(), 0);
        }
        check();
    }
    // The end of the session: nothing may be left.
    void finish() {
        session_.reset();
        complain(!backend_->out.empty(), "leases out after the end");
        complain(backend_->wrong != 0, "a lease came back twice");
        complain(mapper_->cells != std::vector<Cell>(mapper_->cells.size()), "mapped after the end");
    }
    [[nodiscard]] const std::string& problem() const { return problem_; }
    [[nodiscard]] DaxSession& session() { return *session_; }
    [[nodiscard]] const Window& window() const { return window_; }

private:
    static constexpr std::uint64_t kChunkGranules = 8;  // small stands for Linux's 2 MiB

    [[nodiscard]] std::uint64_t granules() const { return config_.window_bytes / config_.granule_bytes; }
    template <typename Next>
    SetupMappingIn linux_set_up(Next& next) const {
        const std::uint64_t chunk = kChunkGranules * config_.granule_bytes;
        const std::uint64_t flags = next() % 2 == 0 ? kSetupMappingRead : kSetupMappingRead | kSetupMappingWrite;
        return {~std::uint64_t{0}, next() % 16 * chunk, chunk, flags, next() % (config_.window_bytes / chunk) * chunk};
    }
    template <typename Next>
    SetupMappingIn any_set_up(Next& next) const {
        const std::uint64_t first = next() % granules();
        const std::uint64_t count = 1 + next() % (granules() - first);
        return {~std::uint64_t{0}, next() % 64 * config_.granule_bytes, count * config_.granule_bytes, 1 + next() % 3,
                first * config_.granule_bytes};
    }
    // The same range, node and offset again, to write: Linux never removes first.
    template <typename Next>
    void upgrade(Next& next) {
        const auto mappings = session_->mappings();
        if (mappings.empty()) {
            return;
        }
        const DaxMapping& one = mappings[next() % mappings.size()];
        set_up(one.node, {~std::uint64_t{0}, one.file_offset, one.length_bytes, 3, one.window_offset}, 0,
               next() % 4 == 0 ? EPERM : 0);
    }
    void set_up(std::uint64_t node, const SetupMappingIn& in, int backend, int mapper) {
        backend_->fail_next_map = backend;
        mapper_->fail_next_map = mapper;
        const int expected = window_.set_up(node, in, backend, mapper);
        answer("set_up", session_->set_up(node, in), expected);
        backend_->fail_next_map = mapper_->fail_next_map = 0;
    }
    template <typename Next>
    void remove_batch(Next& next, bool fails) {
        const auto count = static_cast<std::uint32_t>(next() % 5);
        std::vector<std::byte> body(sizeof count + 16 * count);
        std::memcpy(body.data(), &count, sizeof count);
        int mapper = fails && next() % 2 == 0 ? ENOMEM : 0;
        int backend = fails && next() % 2 == 0 ? EIO : 0;
        mapper_->fail_next_unmap = mapper;
        backend_->fail_next_unmap = backend;
        int expected = 0;
        for (std::uint32_t i = 0; i < count; ++i) {
            const SetupMappingIn range = next() % 2 == 0 ? linux_set_up(next) : any_set_up(next);
            const RemoveMappingOne one{range.window_offset + (next() % 16 == 0 ? 1 : 0), range.length_bytes};
            std::memcpy(body.data() + sizeof count + 16 * i, &one, sizeof one);
            bool used = false;
            bool released = false;
            const int error = window_.remove(one, mapper, backend, used, released);
            mapper = used ? 0 : mapper;
            backend = released ? 0 : backend;
            expected = expected != 0 ? expected : error;
        }
        RemoveMappingEntries entries;
        answer("parse", parse_remove_mapping(body, entries).error, 0);
        answer("remove", session_->remove(entries), expected);
        mapper_->fail_next_unmap = backend_->fail_next_unmap = 0;
    }
    void check() {
        complain(!window_.agrees(session_->mappings()), "the record differs");
        complain(mapper_->cells != window_.cells(), "the mapper's view differs");
        complain(backend_->out.size() != window_.leases(), "leases differ");
        complain(backend_->wrong != 0, "a lease came back twice");
        complain(mapper_->wrong != 0, "the mapper was asked for what is not there");
        const DaxStats stats = session_->stats();
        complain(stats.leases_taken - stats.leases_released != window_.leases(), "counters differ");
        complain(config_.quota_bytes != 0 && stats.mapped_bytes > config_.quota_bytes, "more than the quota");
    }
    void answer(const char* what, int answered, int expected) {
        complain(answered != expected,
                 what + (" answered " + std::to_string(answered)) + ", not " + std::to_string(expected));
    }
    void complain(bool wrong, const std::string& text) {
        if (wrong && problem_.empty()) {
            problem_ = text;
        }
    }

    DaxConfig config_;
    std::shared_ptr<Backend> backend_ = std::make_shared<Backend>();
    std::shared_ptr<Mapper> mapper_;
    std::unique_ptr<DaxSession> session_;
    Window window_;
    std::string problem_;
};

}  // namespace vmthaw::oracle
