// The guest's program: freestanding x86-64 code that runs at CPL 3 with I/O privilege, wherever it is loaded. It
// becomes the flat binary that payload_image.cpp carries (cmake/payload.cmake): everything must lie in .text, without
// relocations, so it uses no global data, no library and no vector registers of the compiler's own choice.
#ifdef __clang__
// Some builds of clang (zig's) take no -mgeneral-regs-only; the functions of the headers need the same.
#pragma clang attribute push(__attribute__((target("general-regs-only"))), apply_to = function)
#endif
#include "machine/payload/mailbox.hpp"

// First in the binary: the entry, then the magic number that the loader looks for. RDI holds the vCPU's mailbox, RSP
// its stack; the host sets both.
asm(R"(
    .text
    jmp 1f
    .balign 8
    .quad 0x3150574148544D56
1:
    xor %ebp, %ebp
    call vmthaw_guest_main
    ud2
)");

namespace vmthaw::payload {
namespace {

Word read_tsc() noexcept {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return static_cast<Word>(high) << 32U | low;
}

volatile Word* words_of(Word page) noexcept { return reinterpret_cast<volatile Word*>(guest_address_of(page)); }

void write_page(Word page, const PageContent& content) noexcept {
    volatile Word* const words = words_of(page);
    if (content.step == 0) {
        // A zero page that is already one stays untouched: the host need not have memory for it.
        Word any = 0;
        for (Word i = 0; i < kWordsPerPage; ++i) {
            any |= words[i];
        }
        if (any == 0) {
            return;
        }
    }
    Word value = content.stamp;
    for (Word i = 0; i < kWordsPerPage; ++i, value += content.step) {
        words[i] = value;
    }
}

void note_mismatch(Report& report, Word page, Word index, Word expected, Word found) noexcept {
    if (report.mismatches++ == 0) {
        report.status = kMismatch;
        report.wrong_page = page;
        report.wrong_address = guest_address_of(page) + index * sizeof(Word);
        report.expected = expected;
        report.found = found;
    }
}

void verify_page(Report& report, const Workload& workload, Word page) noexcept {
    const PageContent content = content_of(workload, page);
    const volatile Word* const words = words_of(page);
    Word expected = content.stamp;
    Word sum = 0;
    for (Word i = 0; i < kWordsPerPage; ++i, expected += content.step) {
        const Word found = words[i];
        sum += found;
        if (found != expected) [[unlikely]] {
            note_mismatch(report, page, i, expected, found);
        }
    }
    ++report.pages;
    report.words += kWordsPerPage;
    report.checksum += checksum_of(page, sum);
}

void verify_word(Report& report, const Workload& workload, Word page, Word index) noexcept {
    const Word expected = content_of(workload, page).word(index);
    const Word found = words_of(page)[index];
    if (found != expected) {
        note_mismatch(report, page, index, expected, found);
    }
    ++report.pages;
    ++report.words;
    report.checksum += checksum_of(page, found);
}

void touch(Report& report, const Command& command) noexcept {
    for (Word step = 0; step < command.count && command.pages != 0; ++step) {
        const Word page = command.first_page + page_of_touch(command.order, step, command.pages, command.seed);
        if (command.one_word != 0) {
            verify_word(report, command.workload, page, mix(page) % kWordsPerPage);
        } else {
            verify_page(report, command.workload, page);
        }
    }
}

#define VMTHAW_EACH_VECTOR(macro)                                                                                 \
    macro(0) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9) macro(10) macro(11) \
        macro(12) macro(13) macro(14) macro(15)

void load_vectors(Word seed) noexcept {
#define VMTHAW_LOAD(number) asm volatile("movq %0, %%xmm" #number : : "r"(mix(seed + (number))));
    VMTHAW_EACH_VECTOR(VMTHAW_LOAD)
}

void check_vectors(Report& report, Word seed) noexcept {
    Word found = 0;
#define VMTHAW_CHECK(number)                                           \
    asm volatile("movq %%xmm" #number ", %0" : "=r"(found));           \
    if (found != mix(seed + (number))) {                               \
        note_mismatch(report, number, 0, mix(seed + (number)), found); \
    }
    VMTHAW_EACH_VECTOR(VMTHAW_CHECK)
}

void perform(const Command& command, Report& report) noexcept {
    const Word end = command.first_page + command.pages;
    // An if chain, since a switch may become a table, and tables are data.
    if (command.operation == kFill) {
        for (Word page = command.first_page; page < end; ++page, ++report.pages) {
            write_page(page, content_of(command.workload, page, 0));
        }
    } else if (command.operation == kVerify) {
        for (Word page = command.first_page; page < end; ++page) {
            verify_page(report, command.workload, page);
        }
    } else if (command.operation == kTouch) {
        touch(report, command);
    } else if (command.operation == kRewrite) {
        const Word generation = command.workload.rewrite_count;
        for (Word page = command.first_page; page < end && generation != 0; ++page) {
            if (is_rewritten(command.workload.rewrites[generation - 1], page)) {
                write_page(page, content_of(command.workload, page, generation));
                ++report.pages;
            }
        }
    } else if (command.operation == kSpin) {
        volatile Word iterations = 0;
        while (command.count == 0 || iterations < command.count) {
            iterations = iterations + 1;
        }
        report.iterations = iterations;
    } else if (command.operation == kLoadVectors) {
        load_vectors(command.seed);
    } else if (command.operation == kCheckVectors) {
        check_vectors(report, command.seed);
    } else if (command.operation != kPing) {
        report.status = kBadOperation;
    }
}

}  // namespace
}  // namespace vmthaw::payload

// The entry's label: local, so that the assembler itself resolves the call.
[[noreturn, gnu::used]] static void guest_main(vmthaw::payload::Mailbox* mailbox) asm("vmthaw_guest_main");

static void guest_main(vmthaw::payload::Mailbox* mailbox) {
    using namespace vmthaw::payload;
    for (;;) {
        Report& report = mailbox->report;
        report.status = kOk;
        report.pages = report.words = report.mismatches = report.wrong_address = report.wrong_page = 0;
        report.expected = report.found = report.checksum = report.iterations = 0;
        report.tsc_start = read_tsc();
        perform(mailbox->command, report);
        report.tsc_end = read_tsc();
        report.sequence = mailbox->sequence;
        asm volatile("outl %0, %w1" : : "a"(1U), "d"(static_cast<std::uint16_t>(kDonePort)) : "memory");
    }
}
#ifdef __clang__
#pragma clang attribute pop
#endif
