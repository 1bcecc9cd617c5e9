#include "testing/page_ledger.hpp"

#include <cstring>
#include <span>

#include "testing/splitmix.hpp"

namespace vmthaw::testing {
namespace {

volatile std::uint64_t* word_at(std::uint64_t address) noexcept {
    return reinterpret_cast<volatile std::uint64_t*>(address);
}

// Each page has one word that the VM writes: elsewhere in every page, so that copying over it is seen.
std::uint64_t own_word(std::uint64_t page, std::uint64_t page_size) noexcept {
    const std::uint64_t words = page_size / sizeof(std::uint64_t);
    return words == 0 ? 0 : mix64(page ^ 0x5EEDU) % words;
}

std::uint64_t own_value(std::uint64_t page, std::uint32_t generation) noexcept {
    return mix64(page * 0x1'0000'0000ULL + generation) | 1U;  // never 0
}

}  // namespace

// Which values a word may have.
struct PageLedger::Allowed {
    bool file;
    bool zero;

    [[nodiscard]] bool accepts(std::uint64_t found, std::uint64_t file_word) const noexcept {
        return (file && found == file_word) || (zero && found == 0);
    }
    [[nodiscard]] const char* rule() const noexcept { return file ? (zero ? "file or zero" : "file") : "zero"; }
    [[nodiscard]] std::uint64_t expected(std::uint64_t file_word) const noexcept { return file ? file_word : 0; }
};

PageLedger::PageLedger(std::shared_ptr<const FakeVmmMemory> memory, const std::string& memory_path)
    : memory_(std::move(memory)), file_(memory_path), records_(new Record[memory_->pages()]) {}

void PageLedger::removal_begins(std::uint64_t first, std::uint64_t count) noexcept {
    for (std::uint64_t page = first; page < first + count; ++page) {
        records_[page].removals_begun.fetch_add(1);
    }
}

void PageLedger::removal_ended(std::uint64_t first, std::uint64_t count) noexcept {
    for (std::uint64_t page = first; page < first + count; ++page) {
        records_[page].removals_ended.fetch_add(1);
    }
}

void PageLedger::read_touch(std::uint64_t page) noexcept {
    static_cast<void>(*word_at(memory_->address(page)));
    records_[page].touched.store(true, std::memory_order_relaxed);
}

void PageLedger::write_touch(std::uint64_t page, std::uint32_t generation) noexcept {
    Record& record = records_[page];
    const std::uint64_t address = memory_->address(page) + own_word(page, memory_->page_size()) * sizeof(std::uint64_t);
    record.ended_before_write.store(record.removals_ended.load());
    *word_at(address) = own_value(page, generation);
    // An addition of 0: a load that nothing passes, so the write has happened before the count is read. A fence would
    // do as well, but the thread sanitizer knows none.
    record.begun_after_write.store(record.removals_begun.fetch_add(0));
    record.written.store(generation);
    record.touched.store(true, std::memory_order_relaxed);
}

bool PageLedger::touched(std::uint64_t page) const noexcept {
    return records_[page].touched.load(std::memory_order_relaxed);
}

std::optional<Mismatch> PageLedger::check(std::uint64_t page, Scratch& scratch) const {
    const Record& record = records_[page];
    const std::uint64_t page_size = memory_->page_size();
    const std::uint64_t address = memory_->address(page);
    const std::uint64_t words = page_size / sizeof(std::uint64_t);
    scratch.found.resize(words);
    scratch.file.resize(words);

    const std::uint32_t ended_before = record.removals_ended.load();
    std::memcpy(scratch.found.data(), reinterpret_cast<const void*>(address), page_size);
    const std::uint32_t begun_after = record.removals_begun.fetch_add(0);  // the page is read before; see write_touch()
    file_.read(memory_->file_offset(page), std::as_writable_bytes(std::span(scratch.file)));

    const Allowed base{ended_before == 0, begun_after > 0};
    const std::uint32_t generation = record.written.load();
    const std::uint64_t own = generation != 0 ? own_word(page, page_size) : words;
    for (std::uint64_t word = 0; word < words; ++word) {
        const std::uint64_t found = scratch.found[word];
        const std::uint64_t file_word = scratch.file[word];
        const bool is_base = base.accepts(found, file_word);
        if (word == own) {
            // Gone when a removal that began after the write has ended; safe when all of them ended before it.
            const bool gone = ended_before > record.begun_after_write.load();
            const bool safe = begun_after == record.ended_before_write.load();
            const std::uint64_t written = own_value(page, generation);
            if (found == written ? gone : (safe || !is_base)) {
                return Mismatch{page,
                                address,
                                word * sizeof found,
                                found,
                                safe ? written : base.expected(file_word),
                                safe ? "written" : std::string(base.rule()) + (gone ? "" : " or written")};
            }
        } else if (!is_base) {
            return Mismatch{page, address, word * sizeof found, found, base.expected(file_word), base.rule()};
        }
    }
    return std::nullopt;
}

}  // namespace vmthaw::testing
