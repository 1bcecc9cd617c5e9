// vmthaw_file_exerciser DIRECTORY OPERATIONS SEED: does that many random operations on a file there and verifies each.
// The same seed does the same again. Exit code 1 and a line that names the operation when a file holds other bytes than
// it must.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>

#include "exercised_file.hpp"

namespace {

constexpr std::uint64_t kWholeEvery = 1000;

int run(const std::string& directory, std::uint64_t operations, std::uint64_t seed) {
    std::uint64_t done = 0;
    const char* name = "nothing";
    try {
        vmthaw::tools::ExercisedFile file(directory + "/exercised", seed);
        while (done < operations) {
            name = file.step();
            ++done;
            if (done % kWholeEvery == 0) {
                file.verify_all();
            }
        }
        file.verify_all();
    } catch (const std::exception& error) {
        std::printf("seed %llu, operation %llu (after %s): %s\n", static_cast<unsigned long long>(seed),
                    static_cast<unsigned long long>(done), name, error.what());
        return 1;
    }
    std::printf("seed %llu: %llu operations verified\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(done));
    return 0;
}

}  // namespace

int main(int count, char** words) {
    const std::span<char*> arguments(words, static_cast<std::size_t>(count));
    if (arguments.size() != 4) {
        std::fputs("usage: vmthaw_file_exerciser DIRECTORY OPERATIONS SEED\n", stderr);
        return 2;
    }
    return run(arguments[1], std::strtoull(arguments[2], nullptr, 10), std::strtoull(arguments[3], nullptr, 10));
}
