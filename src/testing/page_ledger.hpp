#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "testing/fake_vmm_memory.hpp"
#include "testing/memory_file.hpp"

namespace vmthaw::testing {

// A page that did not hold what it must.
struct Mismatch {
    std::uint64_t page;
    std::uint64_t host_address;
    std::uint64_t byte_offset;  // in the page, of the first wrong 8-byte word
    std::uint64_t found;
    std::uint64_t expected;
    std::string rule;  // "file", "zero", "file or zero", "written", ...
};

// What every page of a VM must hold: the file's bytes, or zeros once removed, with the words that the VM itself wrote.
// Exact under races: removals and writes are counted before and after they happen, so that a page whose madvise has
// returned must be zeros, one whose removal has not begun must be the file's, and only in between may it be either.
// Removals of one VM must not run at the same time; a page is written by one thread at a time. Otherwise thread-safe.
class PageLedger {
public:
    PageLedger(std::shared_ptr<const FakeVmmMemory> memory, const std::string& memory_path);

    void removal_begins(std::uint64_t first, std::uint64_t count) noexcept;
    void removal_ended(std::uint64_t first, std::uint64_t count) noexcept;

    // First access of a touch: one word read, or the page's own word written. Blocks while the page is missing.
    void read_touch(std::uint64_t page) noexcept;
    void write_touch(std::uint64_t page, std::uint32_t generation) noexcept;
    [[nodiscard]] bool touched(std::uint64_t page) const noexcept;

    // Compares the whole page with what it must hold. Blocks while it is missing. `scratch` is the caller's own.
    struct Scratch {
        std::vector<std::uint64_t> found;
        std::vector<std::uint64_t> file;
    };
    [[nodiscard]] std::optional<Mismatch> check(std::uint64_t page, Scratch& scratch) const;

    [[nodiscard]] std::uint32_t next_generation() noexcept { return generation_.fetch_add(1) + 1; }

private:
    struct Record {
        mutable std::atomic<std::uint32_t> removals_begun{0};
        std::atomic<std::uint32_t> removals_ended{0};
        std::atomic<std::uint32_t> written{0};             // generation of the last write, 0: none
        std::atomic<std::uint32_t> ended_before_write{0};  // removals_ended when it began
        std::atomic<std::uint32_t> begun_after_write{0};   // removals_begun when it had ended
        std::atomic<bool> touched{false};
    };
    struct Allowed;

    std::shared_ptr<const FakeVmmMemory> memory_;
    MemoryFileReader file_;
    std::unique_ptr<Record[]> records_;
    std::atomic<std::uint32_t> generation_{0};
};

}  // namespace vmthaw::testing
