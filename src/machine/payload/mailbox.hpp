#pragma once

#include "machine/payload/pattern.hpp"

// Where things lie in the guest that runs the payload, and how it is told what to do. Shared by guest and host.
//
// The first MiB is the payload's: page tables, one mailbox and one stack for each vCPU, the code. The rest is work: the
// pages that commands fill and verify. The guest runs in long mode at CPL 3 from its first instruction.
namespace vmthaw::payload {

inline constexpr Word kMostVcpus = 16;
inline constexpr Word kPml4Address = 0x1000;
inline constexpr Word kPdptAddress = 0x2000;
inline constexpr Word kMailboxAddress = 0x4000;  // a page for each vCPU
inline constexpr Word kStackAddress = 0x20000;   // kStackBytes for each vCPU
inline constexpr Word kStackBytes = 0x4000;
inline constexpr Word kDirectoryAddress = 0x60000;  // a page directory for each GiB of guest addresses
inline constexpr Word kMostDirectories = 80;
inline constexpr Word kCodeAddress = 0xB0000;
inline constexpr Word kCodeMostBytes = 0x10000;
inline constexpr Word kWorkAddress = 0x100000;
inline constexpr Word kFirstWorkPage = kWorkAddress / kPageBytes;

// Memory above 3 GiB lies one GiB higher in the guest: the gap is where devices are.
inline constexpr Word kGapStart = Word{3} << 30U;
inline constexpr Word kGapBytes = Word{1} << 30U;

VMTHAW_IN_GUEST Word guest_address_of(Word page) noexcept {
    const Word offset = page * kPageBytes;
    return offset < kGapStart ? offset : offset + kGapBytes;
}

inline constexpr Word kDonePort = 0x5A0;               // `out` here: a report lies in the mailbox
inline constexpr Word kMagic = 0x3150574148544D56ULL;  // "VMTHAWP1"

enum Operation : Word {
    kPing = 0,
    kFill = 1,          // write every page of the range as generation 0
    kVerify = 2,        // compare every word of every page of the range
    kTouch = 3,         // verify `count` pages of the range in `order`
    kRewrite = 4,       // write the pages of the range that the workload's last rewriting takes
    kSpin = 5,          // count to `count`, or for ever (0)
    kLoadVectors = 6,   // XMM0 to XMM15 from `seed`
    kCheckVectors = 7,  // and whether they still hold that
};

enum Status : Word { kOk = 0, kMismatch = 1, kBadOperation = 2 };

struct Command {
    Word operation;
    Word first_page;
    Word pages;
    Word count;
    Word order;
    Word seed;
    Word one_word;  // touch: only one word of each page instead of all
    Workload workload;
};

struct Report {
    Word status;
    Word sequence;       // of the command that this answers
    Word pages;          // visited
    Word words;          // compared
    Word mismatches;     // words (at most all)
    Word wrong_address;  // guest address of the first wrong word
    Word wrong_page;
    Word expected;
    Word found;
    Word checksum;
    Word iterations;
    Word tsc_start;
    Word tsc_end;
};

struct Mailbox {
    Word sequence;
    Command command;
    Report report;
};
static_assert(sizeof(Mailbox) <= kPageBytes);

}  // namespace vmthaw::payload
