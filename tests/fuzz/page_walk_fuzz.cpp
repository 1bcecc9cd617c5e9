#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <variant>
#include <vector>

#include "fuzz_check.hpp"
#include "vcpu/page_walk.hpp"

// The page-table walk over random memory: the input is the registers, an address and a memory of up to 256 KiB that
// repeats itself over the first 16 MiB, so that most tables lie in it. Whatever it says, a walk reads at most five
// entries, a read gives at most what was asked, and ranges hold what translate() says of each address in them.
namespace {

using namespace vmthaw;

constexpr std::uint64_t kMemoryBytes = 16U << 20U;
constexpr std::size_t kMostRanges = 64;
constexpr std::uint64_t kEntriesToRead = 10'000;

struct Input {
    std::uint8_t arch;
    std::uint8_t is_mmu_on;
    std::uint8_t unused[6];
    std::uint64_t registers[4];
    std::uint64_t address;
};

class Memory {
public:
    explicit Memory(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
    bool read(std::uint64_t address, std::span<std::byte> out) {
        ++reads;
        FUZZ_CHECK(out.size() <= 65536);
        if (bytes_.empty() || address >= kMemoryBytes || out.size() > kMemoryBytes - address) {
            return false;
        }
        for (std::uint64_t at = address % bytes_.size(); !out.empty(); at = 0) {
            const std::size_t count = std::min<std::size_t>(out.size(), bytes_.size() - at);
            std::memcpy(out.data(), bytes_.data() + at, count);
            out = out.subspan(count);
        }
        return true;
    }
    std::uint64_t reads = 0;

private:
    std::vector<std::byte> bytes_;
};

PagingState state_of(const Input& input) {
    PagingState state;
    state.arch = (input.arch & 1U) != 0 ? GuestArch::aarch64 : GuestArch::x86_64;
    state.is_mmu_on = input.is_mmu_on != 0;
    state.cr0 = input.registers[0];
    state.cr3 = state.ttbr0 = input.registers[1];
    state.cr4 = state.ttbr1 = input.registers[2];
    state.efer = state.tcr = input.registers[3];
    return state;
}

void check_translation(const PagingState& state, Memory& memory, const ReadPhysical& read, std::uint64_t address) {
    memory.reads = 0;
    const WalkResult result = translate(state, read, address);
    FUZZ_CHECK(memory.reads <= 5);
    if (const auto* const failure = std::get_if<WalkFailure>(&result)) {
        FUZZ_CHECK(failure->address == address);
        FUZZ_CHECK(!failure->describe().empty());
        FUZZ_CHECK(failure->level >= -1 && failure->level <= 5);
        return;
    }
    const auto& page = std::get<PageTranslation>(result);
    FUZZ_CHECK(page.page_bytes >= 4096 && (page.page_bytes & (page.page_bytes - 1)) == 0);
    FUZZ_CHECK((page.guest_physical - address) % page.page_bytes == 0);
    FUZZ_CHECK(memory.reads == 0 || page.guest_physical >> 52U == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input{};
    if (size < sizeof input) {
        return 0;
    }
    std::memcpy(&input, data, sizeof input);
    const std::size_t rest = std::min<std::size_t>(size - sizeof input, 256U << 10U);
    const auto content = std::as_bytes(std::span(data, size)).subspan(sizeof input, rest);
    Memory memory({content.begin(), content.end()});
    const ReadPhysical read = [&memory](std::uint64_t address, std::span<std::byte> out) {
        return memory.read(address, out);
    };
    const PagingState state = state_of(input);
    check_translation(state, memory, read, input.address);

    std::array<std::byte, 10'000> out{};
    const auto failure = read_guest_virtual(state, read, input.address, out);
    FUZZ_CHECK(!failure || failure->address - input.address < out.size());

    // Everything that a table maps may be large; the limits must hold, and a few samples agree.
    const MappedRanges mapped = mapped_ranges(state, read, kMostRanges, kEntriesToRead);
    FUZZ_CHECK(mapped.ranges.size() <= kMostRanges);
    for (const MappedRange& range : mapped.ranges) {
        FUZZ_CHECK(range.size_bytes >= 4096);
        for (const std::uint64_t offset : {std::uint64_t{0}, range.size_bytes - 1}) {
            const WalkResult result = translate(state, read, range.address + offset);
            const auto* const page = std::get_if<PageTranslation>(&result);
            FUZZ_CHECK(page != nullptr);
            FUZZ_CHECK(page->guest_physical == range.guest_physical + offset);
            FUZZ_CHECK(page->permissions == range.permissions);
        }
    }
    return 0;
}
