#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mapping.hpp"
#include "pager/pager_session.hpp"
#include "testing/splitmix.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"

// What the tests of sessions and servers share: guest memory in this process, a source that obeys the test, threads
// that may hang.
namespace vmthaw::pager_tests {

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kWords = kPage / 8;
using namespace std::chrono_literals;

// The word of the memory file at an offset: never 0.
inline std::uint64_t word_at(std::uint64_t offset) { return testing::mix64(offset / 8) | 1U; }

// Delivers word_at(), from a source thread, after whatever the test wants to happen first.
class ScriptedSource final : public PageSource {
public:
    using Hook = std::function<ReadResult(std::uint64_t offset, std::uint64_t size)>;
    explicit ScriptedSource(std::uint64_t pages, Hook hook = {}) : size_(pages * kPage), hook_(std::move(hook)) {}

    [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
    [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t size) const noexcept override {
        return offset <= size_ && size <= size_ - offset;
    }
    [[nodiscard]] Extent extent_at(std::uint64_t offset, std::uint64_t limit) const noexcept override {
        return {offset, limit, ExtentKind::data};
    }
    [[nodiscard]] ReadResult read(std::uint64_t offset, std::span<std::byte> out) noexcept override {
        ++reads;
        if (hook_) {
            if (const ReadResult result = hook_(offset, out.size()); !result.ok()) {
                return result;
            }
        }
        auto* words = reinterpret_cast<std::uint64_t*>(out.data());
        for (std::uint64_t i = 0; i < out.size() / 8; ++i) {
            words[i] = word_at(offset + i * 8);
        }
        return {};
    }
    [[nodiscard]] std::vector<Extent> extents() const override { return {{0, size_, ExtentKind::data}}; }
    [[nodiscard]] std::string description() const override { return "scripted"; }

    std::atomic<std::uint64_t> reads{0};

private:
    std::uint64_t size_;
    Hook hook_;
};

// Closed until open() is called; wait() gives up after 20 s, so that a failing test ends.
class Latch {
public:
    void open() {
        const std::lock_guard lock(mutex_);
        open_ = true;
        changed_.notify_all();  // under the lock: whoever waits may destroy this at once
    }
    void wait() {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.wait_for(lock, 20s, [this] { return open_; });
        --waiting_;
    }
    ~Latch() { const std::lock_guard lock(mutex_); }
    [[nodiscard]] int waiting() const {
        const std::lock_guard lock(mutex_);
        return waiting_;
    }

private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
    int waiting_ = 0;
};

inline bool eventually(const std::function<bool()>& predicate, std::chrono::milliseconds timeout = 20s) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (!predicate()) {
        if (std::chrono::steady_clock::now() > deadline) {
            return false;
        }
        std::this_thread::sleep_for(200us);
    }
    return true;
}

// Anonymous memory of this process, registered for missing pages. Aligned to 64 KiB: blocks are aligned in the address
// space, so that without it the kernel's choice of an address would decide which pages share one.
class Guest {
public:
    explicit Guest(std::uint64_t pages, Features more = {})
        : memory_(Mapping::anonymous(pages * kPage + kAlignment)), pages_(pages), descriptor_(make(more)) {
        descriptor_.register_range(address(), pages * kPage, kRegisterMissing);
    }

    [[nodiscard]] std::uint64_t address(std::uint64_t page = 0) const {
        return reinterpret_cast<std::uint64_t>(this->page(page));
    }
    [[nodiscard]] std::byte* page(std::uint64_t index) const {
        const std::uint64_t lead = -reinterpret_cast<std::uint64_t>(memory_.data()) % kAlignment;
        return memory_.data() + lead + index * kPage;
    }
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] std::vector<Region> regions() const { return {{address(), 0x4000'0000, pages_ * kPage, 0, kPage}}; }
    // Accesses that neither the compiler nor the thread sanitizer has an opinion about.
    [[nodiscard]] std::uint64_t word(std::uint64_t page_index, std::uint64_t index) const {
        return std::atomic_ref<std::uint64_t>(reinterpret_cast<std::uint64_t*>(page(page_index))[index])
            .load(std::memory_order_acquire);
    }
    void write(std::uint64_t page_index, std::uint64_t index, std::uint64_t value) const {
        std::atomic_ref<std::uint64_t>(reinterpret_cast<std::uint64_t*>(page(page_index))[index])
            .store(value, std::memory_order_relaxed);
    }
    [[nodiscard]] bool holds_source(std::uint64_t page_index) const {
        for (std::uint64_t i = 0; i < kWords; ++i) {
            if (word(page_index, i) != word_at(page_index * kPage + i * 8)) {
                return false;
            }
        }
        return true;
    }
    [[nodiscard]] bool holds_zeros(std::uint64_t page_index) const {
        for (std::uint64_t i = 0; i < kWords; ++i) {
            if (word(page_index, i) != 0) {
                return false;
            }
        }
        return true;
    }
    void remove(std::uint64_t first, std::uint64_t count) const {
        check_errno(::madvise(page(first), count * kPage, MADV_DONTNEED), "madvise");
    }
    void unmap(std::uint64_t first, std::uint64_t count) const {
        check_errno(::munmap(page(first), count * kPage), "munmap");
        plug(first, count);
    }
    [[nodiscard]] Mapping move_away(std::uint64_t first, std::uint64_t count) const {
        Mapping target = Mapping::anonymous(count * kPage);  // a mapping here so that the kernel has to move
        if (::mremap(page(first), count * kPage, count * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target.data()) ==
            MAP_FAILED) {
            throw SystemError(errno, "mremap");
        }
        plug(first, count);
        return target;
    }
    // A duplicate of the descriptor, as a VMM keeps one.
    [[nodiscard]] Userfaultfd clone() const { return descriptor_.try_clone(); }

    [[nodiscard]] std::shared_ptr<PagerSession> serve(std::shared_ptr<PageSource> source, PagerConfig config = {},
                                                      SessionObserver* observer = nullptr,
                                                      std::vector<std::uint64_t> prewarm = {}) {
        std::shared_ptr<PagerSession> session = PagerSession::create({.userfaultfd = std::move(descriptor_),
                                                                      .regions = regions(),
                                                                      .source = std::move(source),
                                                                      .config = config,
                                                                      .pid_fd = {},
                                                                      .socket = {},
                                                                      .label = "test",
                                                                      .prewarm = std::move(prewarm),
                                                                      .page_states = {}},
                                                                     observer);
        session->start();
        return session;
    }

private:
    static constexpr std::uint64_t kAlignment = 16 * kPage;

    // Our destructor unmaps the whole of it: nobody else's mapping may come to lie there.
    void plug(std::uint64_t first, std::uint64_t count) const {
        constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        if (::mmap(page(first), count * kPage, PROT_NONE, kFlags, -1, 0) != page(first)) {
            throw SystemError(errno, "mmap(plug)");
        }
    }
    static Userfaultfd make(Features more) {
        UserfaultfdOptions options;
        options.required = Features(options.required.bits() | more.bits());
        return UserfaultfdFactory(options).create();
    }

    Mapping memory_;
    std::uint64_t pages_;
    Userfaultfd descriptor_;
};

inline PagerConfig quick_config() {
    PagerConfig config;
    config.retry_min_ns = 1'000'000;
    config.retry_max_ns = 2'000'000;
    return config;
}

// Threads that touch memory, and so may hang if the code under test is wrong: then the test fails and the process ends,
// because nothing can take a thread back that waits for a page.
class Crew {
public:
    template <typename Body>
    void start(Body body) {
        ++running_;
        threads_.emplace_back([this, body = std::move(body)] {
            body();
            --running_;
        });
    }
    [[nodiscard]] bool finish(std::chrono::milliseconds timeout = 20s) {
        if (!eventually([this] { return running_ == 0; }, timeout)) {
            return false;
        }
        for (std::thread& thread : threads_) {
            thread.join();
        }
        threads_.clear();
        return true;
    }
    void finish_or_die(const std::string& what) {
        if (!finish()) {
            std::fprintf(stderr, "%d threads hang: %s\n", running_.load(), what.c_str());
            std::abort();
        }
    }
    [[nodiscard]] int running() const { return running_; }

private:
    std::atomic<int> running_{0};
    std::vector<std::thread> threads_;
};

// Ends a session by draining; dies when that hangs.
inline void drain(const std::shared_ptr<PagerSession>& session) {
    session->drain(60'000'000'000);
    if (!session->wait_closed(20s)) {
        std::fprintf(stderr, "the session does not drain; %llu pages are missing\n",
                     static_cast<unsigned long long>(session->missing_pages()));
        std::abort();
    }
}

#define VMTHAW_NEEDS_USERFAULTFD()                             \
    try {                                                      \
        static_cast<void>(UserfaultfdFactory().create());      \
    } catch (const Error& error) {                             \
        GTEST_SKIP() << "needs userfaultfd: " << error.what(); \
    }

}  // namespace vmthaw::pager_tests
