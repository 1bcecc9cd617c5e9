#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmthaw::tools {

// A file and, in memory, what it must hold. Every operation is followed by a look at what it touched, through read(2)
// or a mapping, and at the size. One thread. Throws Error with what differs.
class ExercisedFile {
public:
    static constexpr std::size_t kMostBytes = 256 * 1024;

    ExercisedFile(std::string path, std::uint64_t seed);

    // One operation of the kind that the seed chooses; gives its name.
    const char* step();
    void verify_all();

private:
    struct Range {
        std::size_t offset;
        std::size_t length;
    };

    void read();
    void write();
    void write_mapped();
    void truncate();
    void allocate(int mode);
    void copy();
    void reopen();
    void sync();
    void replace_by_rename();

    void open(int flags);
    [[nodiscard]] Range range_in_file();
    [[nodiscard]] Range range_anywhere();
    [[nodiscard]] std::size_t below(std::size_t limit);
    [[nodiscard]] std::vector<std::uint8_t> random_bytes(std::size_t length);
    void must(bool done, const char* operation) const;
    void check_size() const;
    void check(Range range);
    void compare(std::span<const std::uint8_t> found, std::size_t offset, const char* way) const;
    void grow_to(std::size_t size);

    std::string path_;
    std::mt19937_64 random_;
    UniqueFd fd_;
    std::vector<std::uint8_t> expected_;
    bool punches_ = true;
    bool copies_ = true;
};

}  // namespace vmthaw::tools
