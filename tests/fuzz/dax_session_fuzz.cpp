#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../core/dax_play.hpp"
#include "fuzz_check.hpp"

// A DAX session under any requests: after each it agrees with its double, granule by granule, and at the end nothing is
// mapped and every lease went back once. The first byte chooses granule, quota and permission; then every number that a
// request is made of takes 1 byte, or 8 after 0xFF.
namespace {

class Numbers {
public:
    Numbers(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
    [[nodiscard]] bool empty() const { return at_ >= size_; }
    std::uint64_t next() {
        if (empty()) {
            return 0;
        }
        const std::uint8_t byte = data_[at_++];
        if (byte != 0xFF || size_ - at_ < sizeof(std::uint64_t)) {
            return byte;
        }
        std::uint64_t number = 0;
        std::memcpy(&number, data_ + at_, sizeof number);
        at_ += sizeof number;
        return number;
    }

private:
    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t at_ = 0;
};

void check(const vmthaw::oracle::Play& play) {
    if (!play.problem().empty()) {
        std::fprintf(stderr, "%s\n", play.problem().c_str());
    }
    FUZZ_CHECK(play.problem().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::uint64_t granule = std::uint64_t{4096} << (data[0] % 3 * 2);
    const std::uint64_t base = (data[0] & 8U) != 0 ? 0xFFFF'FFFF'0000'0000 : 0x80'0000'0000;
    const std::uint64_t quota = (data[0] & 16U) != 0 ? 12 * granule : 0;
    vmthaw::oracle::Play play({.guest_base = base,
                               .window_bytes = 32 * granule,
                               .granule_bytes = granule,
                               .read_only = (data[0] & 32U) != 0,
                               .quota_bytes = quota});
    Numbers numbers(data + 1, size - 1);
    while (!numbers.empty()) {
        play.step([&] { return numbers.next(); });
        check(play);
    }
    play.finish();
    check(play);
    return 0;
}
