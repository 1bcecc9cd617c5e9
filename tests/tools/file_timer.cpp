// vmthaw_file_timer OPERATION BLOCKS COUNT DIRECTORY OTHER: times COUNT operations at a time in two directories in
// turns, BLOCKS times in each, and prints the seconds of each: two lines of BLOCKS numbers. OPERATION: stat, create,
// read, write (128 KiB, O_DIRECT). Numbers of the same place in the two lines were measured right after each other.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "base/unique_fd.hpp"

namespace {

using vmthaw::check_errno;
using vmthaw::check_errno_long;
using vmthaw::UniqueFd;

constexpr std::size_t kBlock_bytes = std::size_t{128} * 1024;
constexpr std::size_t kFileBlocks = 256;
constexpr std::size_t kStatFiles = 64;
// Before a block, so that what the other's server does after its last answer (releases, forgets) is not timed in it.
constexpr std::size_t kSettlingStats = 16;

class Place {
public:
    explicit Place(std::string directory) : directory_(std::move(directory)) {}

    void prepare() {
        for (std::size_t number = 0; number < kStatFiles; ++number) {
            const UniqueFd file(check_errno(::open(stat_name(number).c_str(), O_CREAT | O_WRONLY, 0644), "open"));
        }
        big_.reset(check_errno(::open((directory_ + "/big").c_str(), O_CREAT | O_RDWR | O_DIRECT, 0644), "open(big)"));
        for (std::size_t number = 0; number < kFileBlocks; ++number) {
            write(number);
        }
    }

    void settle() const {
        for (std::size_t number = 0; number < kSettlingStats; ++number) {
            stat(number);
        }
    }
    void stat(std::size_t number) const {
        struct stat found{};
        check_errno(::stat(stat_name(number % kStatFiles).c_str(), &found), "stat");
    }
    void create(std::size_t number) const {
        const UniqueFd file(check_errno(::open(new_name(number).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644), "create"));
    }
    void remove(std::size_t number) const { check_errno(::unlink(new_name(number).c_str()), "unlink"); }
    void read(std::size_t number) {
        check_errno_long(::pread(big_.get(), bytes_.data(), kBlock_bytes, at(number)), "pread");
    }
    void write(std::size_t number) {
        check_errno_long(::pwrite(big_.get(), bytes_.data(), kBlock_bytes, at(number)), "pwrite");
    }

private:
    [[nodiscard]] std::string stat_name(std::size_t number) const {
        return directory_ + "/stat" + std::to_string(number);
    }
    [[nodiscard]] std::string new_name(std::size_t number) const {
        return directory_ + "/new" + std::to_string(number);
    }
    static off_t at(std::size_t number) { return static_cast<off_t>(number % kFileBlocks * kBlock_bytes); }

    std::string directory_;
    UniqueFd big_;
    vmthaw::Mapping bytes_ = vmthaw::Mapping::anonymous(kBlock_bytes);
};

double timed(Place& place, const std::string& operation, std::size_t count) {
    place.settle();
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t number = 0; number < count; ++number) {
        if (operation == "stat") {
            place.stat(number);
        } else if (operation == "create") {
            place.create(number);
        } else if (operation == "read") {
            place.read(number);
        } else {
            place.write(number);
        }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (operation == "create") {
        for (std::size_t number = 0; number < count; ++number) {
            place.remove(number);
        }
    }
    return seconds.count();
}

void run(std::span<char*> words) {
    const std::string operation = words[1];
    const std::size_t blocks = std::strtoull(words[2], nullptr, 10);
    const std::size_t count = std::strtoull(words[3], nullptr, 10);
    std::array<Place, 2> places{Place(words[4]), Place(words[5])};
    std::array<std::vector<double>, 2> seconds;
    for (Place& place : places) {
        place.prepare();
        timed(place, operation, count);
    }
    for (std::size_t block = 0; block < blocks; ++block) {
        for (const std::size_t which : {block % 2, 1 - block % 2}) {
            seconds.at(which).push_back(timed(places.at(which), operation, count));
        }
    }
    for (const std::vector<double>& found : seconds) {
        for (const double each : found) {
            std::printf("%.9f ", each);
        }
        std::printf("\n");
    }
}

}  // namespace

int main(int count, char** words) {
    const std::span<char*> arguments(words, static_cast<std::size_t>(count));
    if (arguments.size() != 6) {
        std::fputs("usage: vmthaw_file_timer stat|create|read|write BLOCKS COUNT DIRECTORY OTHER\n", stderr);
        return 2;
    }
    try {
        run(arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "vmthaw_file_timer: %s\n", error.what());
        return 1;
    }
    return 0;
}
