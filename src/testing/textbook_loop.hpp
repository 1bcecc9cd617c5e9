#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/event_fd.hpp"
#include "base/mapping.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw::testing {

struct TextbookStats {
    std::uint64_t faults = 0;
    std::uint64_t zero_pages = 0;
    std::uint64_t removes = 0;
    std::uint64_t retries = 0;
    std::uint64_t cpu_ns = 0;  // of the serving thread
};

// Deliberate faults of a server, for proving that FakeVmm sees them. Counted from the first fault on; 0: never.
struct TextbookMutations {
    std::uint64_t wrong_byte_at_fault = 0;  // one byte of that page is flipped
    std::uint64_t wrong_page_at_fault = 0;  // its neighbour's bytes instead
    std::uint64_t lost_fault_at_fault = 0;  // never answered, nor is any other of its page: KVM asks again
    bool stale_after_remove = false;        // the file's bytes again
};

// The page server of every textbook, as the baseline of benchmarks: poll, read one message, copy one page from the
// mapped file. One VM after another is not served: one connection, in the calling thread, until the VM hangs up or
// stop(). Zeros for removed pages, because a baseline that is wrong would be no baseline. Throws SystemError.
class TextbookLoop {
public:
    TextbookLoop(std::string socket_path, const std::string& memory_path, TextbookMutations mutations = {});
    TextbookLoop(const TextbookLoop&) = delete;
    TextbookLoop& operator=(const TextbookLoop&) = delete;
    TextbookLoop(TextbookLoop&&) = delete;
    TextbookLoop& operator=(TextbookLoop&&) = delete;
    ~TextbookLoop();

    // `cpu` >= 0 pins the calling thread first.
    TextbookStats serve(int cpu = -1);
    void stop() noexcept { stop_.signal(); }  // from any thread

private:
    struct Region {
        std::uint64_t host_address;
        std::uint64_t size;
        std::uint64_t file_offset;
        std::uint64_t page_size;
    };
    [[nodiscard]] bool wait_readable(int fd) const;
    [[nodiscard]] UniqueFd receive(int connection);
    void loop(int connection, int userfaultfd);
    void remove(std::uint64_t start, std::uint64_t end);
    [[nodiscard]] bool answer(int userfaultfd, std::uint64_t address);

    std::string socket_path_;
    UniqueFd listener_;
    Mapping file_;
    TextbookMutations mutations_;
    EventFd stop_;
    std::vector<Region> regions_;
    std::vector<std::vector<bool>> removed_;  // per region and page
    std::vector<std::uint64_t> deferred_;
    std::vector<char> bounce_;
    TextbookStats stats_;
    std::uint64_t lost_page_ = 0;  // host address; 0: none
};

}  // namespace vmthaw::testing
