#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>

#include "base/mapping.hpp"
#include "base/unique_fd.hpp"
#include "userfaultfd/message.hpp"
#include "userfaultfd/userfaultfd.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"

// What the userfaultfd tests share. Assertions stay in the tests; set-up that fails throws.
namespace vmthaw::testing_support {

enum class Kind { anonymous, shared_memory, private_memfd, hugetlb, shared_hugetlb };
std::ostream& operator<<(std::ostream& out, Kind kind);  // the parameter's name in test names

[[nodiscard]] constexpr bool is_huge(Kind kind) { return kind == Kind::hugetlb || kind == Kind::shared_hugetlb; }
[[nodiscard]] constexpr bool has_alias(Kind kind) {
    return kind == Kind::shared_memory || kind == Kind::shared_hugetlb;
}
[[nodiscard]] std::size_t page_size_of(Kind kind);

// Free 2 MiB pages for one test; the pool's former size comes back at the end. One test at a time holds the pool (the
// same lock file as tests/support/huge_pages.py). `reason` says why there are none.
class ReservedHugePages {
public:
    explicit ReservedHugePages(std::size_t pages);
    ~ReservedHugePages();
    ReservedHugePages(const ReservedHugePages&) = delete;
    ReservedHugePages& operator=(const ReservedHugePages&) = delete;
    std::string reason;

private:
    UniqueFd lock_;
    long former_ = -1;
};

// Pages of one kind, untouched. Shared kinds have a second mapping of the same pages, `alias`, never registered.
class Memory {
public:
    Memory(Kind kind, std::size_t pages);

    [[nodiscard]] std::byte* page(std::size_t index) const { return mapping_.data() + index * page_size_; }
    [[nodiscard]] std::byte* alias(std::size_t index) const { return alias_.data() + index * page_size_; }
    [[nodiscard]] std::uint64_t address(std::size_t index = 0) const;
    [[nodiscard]] std::size_t page_size() const { return page_size_; }
    [[nodiscard]] std::size_t size() const { return mapping_.size(); }
    [[nodiscard]] std::size_t pages() const { return size() / page_size_; }
    // After mremap() or munmap() moved it: forget the old place, own the new one.
    void moved_to(void* address, std::size_t size);

private:
    std::size_t page_size_;
    UniqueFd fd_;
    Mapping mapping_;
    Mapping alias_;
};

[[nodiscard]] std::uint64_t address_of(const void* pointer);
[[nodiscard]] constexpr Features operator|(Feature left, Feature right) {
    return Features(static_cast<std::uint64_t>(left) | static_cast<std::uint64_t>(right));
}
[[nodiscard]] constexpr Features operator|(Features left, Feature right) {
    return Features(left.bits() | static_cast<std::uint64_t>(right));
}
[[nodiscard]] constexpr Features only(Feature feature) { return Features(static_cast<std::uint64_t>(feature)); }

// Whether the running kernel has them all.
[[nodiscard]] bool kernel_has(Features features);
[[nodiscard]] Userfaultfd make_userfaultfd(Features features);

// A page-aligned page of one byte.
[[nodiscard]] Mapping page_of(std::size_t page_size, unsigned char value);

// Volatile accesses, so that no compiler moves or drops a touch.
[[nodiscard]] unsigned char peek(const std::byte* where);
void poke(std::byte* where, unsigned char value);
// Does touching raise SIGBUS? One thread at a time in the process.
[[nodiscard]] bool raises_sigbus(std::byte* where, bool write);

// The next message, waiting for at most 10 s; UnknownMessage with event 0 when none came.
[[nodiscard]] Message next_message(const Userfaultfd& userfaultfd);
[[nodiscard]] bool has_message(const Userfaultfd& userfaultfd);
[[nodiscard]] bool eventually(const std::function<bool()>& predicate);

// Reads messages on a thread and hands each to `handle` until destroyed.
class Server {
public:
    Server(const Userfaultfd& userfaultfd, std::function<void(const Message&)> handle);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

private:
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

// Bits of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
inline constexpr std::uint64_t kPagemapUffdWp = std::uint64_t{1} << 57U;
[[nodiscard]] std::uint64_t pagemap_entry(const std::byte* where);
// A "Name:   123 kB" field of the mapping that holds `where`, from /proc/self/smaps; -1 if there is none.
[[nodiscard]] long smaps_kib(const std::byte* where, const std::string& field);
// Runs `body` in a forked child and gives its result back (0 to 255), or -1 when a signal ended it.
[[nodiscard]] int in_child(const std::function<int()>& body);

}  // namespace vmthaw::testing_support
