#pragma once

#include <cstdint>

// What the guest's pages hold. Compiled into the guest and into the host, so that either can say what must be where:
// freestanding, no library, no tables. All of it is a function of the workload and of the page's number.
// Inlined everywhere: a copy of its own would lie in a section of its own, and the guest is cut from one.
#define VMTHAW_IN_GUEST [[gnu::always_inline]] constexpr

namespace vmthaw::payload {

using Word = std::uint64_t;

inline constexpr Word kPageBytes = 4096;
inline constexpr Word kWordsPerPage = kPageBytes / sizeof(Word);
inline constexpr Word kShareOne = 65536;   // shares are in 1/65536
inline constexpr Word kMostRewrites = 32;  // of one workload
inline constexpr Word kWordStep = 0x9E3779B97F4A7C15ULL;

// The finalizer of S. Vigna's splitmix64: bijective.
VMTHAW_IN_GUEST Word mix(Word value) noexcept {
    value += kWordStep;
    value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27U)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31U);
}

// One rewriting of part of the memory: of the pages [first_page, first_page + pages) a share, chosen by the seed.
struct Rewrite {
    Word seed;
    Word share;
    Word first_page;
    Word pages;
};

// Everything that decides what every page holds. Pages are numbered by their offset in the memory file.
struct Workload {
    Word seed;
    Word zero_share;  // of the pages of each generation that are zeros
    Word rewrite_count;
    Rewrite rewrites[kMostRewrites];
};

VMTHAW_IN_GUEST bool is_rewritten(const Rewrite& rewrite, Word page) noexcept {
    return page >= rewrite.first_page && page - rewrite.first_page < rewrite.pages &&
           (mix(rewrite.seed ^ mix(page)) & (kShareOne - 1)) < rewrite.share;
}

// The number of the last rewriting that took the page, from 1; 0: it is as filled.
VMTHAW_IN_GUEST Word generation_of(const Workload& workload, Word page) noexcept {
    for (Word generation = workload.rewrite_count; generation > 0; --generation) {
        if (is_rewritten(workload.rewrites[generation - 1], page)) {
            return generation;
        }
    }
    return 0;
}

// Zeros come in runs of so many pages, as in real guests. One by one they would cut a memory file into so many extents
// that a file system takes seconds to delete it.
inline constexpr Word kZeroRunPages = 16;

// Word 0 of a page; word i is this plus i * step. A zero page has stamp and step 0.
struct PageContent {
    Word stamp;
    Word step;
    VMTHAW_IN_GUEST Word word(Word index) const noexcept { return stamp + index * step; }
};

VMTHAW_IN_GUEST PageContent content_of(const Workload& workload, Word page, Word generation) noexcept {
    const Word run = page / kZeroRunPages;
    if ((mix(~workload.seed ^ mix(run ^ (generation << 48U))) >> 48U) < workload.zero_share) {
        return {0, 0};
    }
    return {mix(mix(workload.seed ^ mix(page ^ (generation << 48U)))), kWordStep};
}

VMTHAW_IN_GUEST PageContent content_of(const Workload& workload, Word page) noexcept {
    return content_of(workload, page, generation_of(workload, page));
}

// What a verified page adds to a report's checksum: order does not matter, place does.
VMTHAW_IN_GUEST Word checksum_of(Word page, Word sum_of_words) noexcept { return mix(sum_of_words ^ mix(page)); }

// How a touch walks through `pages` pages.
enum Order : Word { kSequential = 0, kRandom = 1, kZipf = 2 };

// A seeded permutation of [0, pages): three bijective rounds on the next power of two, walked until it falls inside.
VMTHAW_IN_GUEST Word permuted(Word index, Word pages, Word seed) noexcept {
    Word bits = 1;
    while (bits < 63 && (Word{1} << bits) < pages) {
        ++bits;
    }
    const Word mask = (Word{1} << bits) - 1;
    do {
        for (Word round = 0; round < 3; ++round) {
            const Word key = mix(seed + round);
            index = (index * (key | 1U) + (key >> 32U)) & mask;
            index ^= index >> ((bits + 1) / 2);
        }
    } while (index >= pages);
    return index;
}

// The page of the step-th touch, from 0. Zipf-like: the rank is uniform in its logarithm (probability about 1 / rank),
// and ranks lie at random places; pages repeat.
VMTHAW_IN_GUEST Word page_of_touch(Word order, Word step, Word pages, Word seed) noexcept {
    if (order == kSequential) {
        return step % pages;
    }
    if (order == kRandom) {
        return permuted(step % pages, pages, seed);
    }
    const Word draw = mix(seed ^ mix(step));
    Word octaves = 0;
    while (octaves < 62 && (Word{2} << octaves) <= pages) {
        ++octaves;
    }
    const Word low = Word{1} << (draw % (octaves + 1));  // rank + 1 is in [low, 2 * low)
    const Word rank = (low + (draw >> 32U) % low - 1) % pages;
    return permuted(rank, pages, seed);
}

}  // namespace vmthaw::payload
