// GIL: held on entry and on return, released while a turn runs.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "bindings/bindings.hpp"
#include "bindings/median.hpp"
#include "dax/dax_session.hpp"
#include "dax/recording_mapper.hpp"
#include "dax/window_mapper.hpp"
#include "filesystem/host_files.hpp"
#include "filesystem/memfd_calls.hpp"

namespace vmthaw::bindings {
namespace {

constexpr std::uint64_t kDaxChunk = 2U << 20U;  // what Linux maps
constexpr std::uint64_t kDaxBase = 0x80'0000'0000;
constexpr std::uint64_t kDaxWindowChunks = 64;
constexpr std::uint64_t kMostDaxTurns = 100'000;
constexpr std::uint64_t kPairsInATurn = 200;

UniqueFd dax_file() {
    UniqueFd fd;
    int error = memfd_make(fd);
    if (error == 0) {
        error = memfd_resize(fd.get(), kDaxWindowChunks * kDaxChunk);
    }
    if (error != 0) {
        throw SystemError(error, "a memfd for the benchmark");
    }
    return fd;
}

void check_dax_turns(std::uint64_t turns) {
    if (turns == 0 || turns > kMostDaxTurns) {
        throw ArgumentError("turns must be from 1 to " + std::to_string(kMostDaxTurns));
    }
}

// One set-up and one remove, `pairs` times: nanoseconds.
std::int64_t take_session_turn(DaxSession& session, std::uint64_t node) {
    const std::uint64_t start_ns = thread_time_ns();
    for (std::uint64_t i = 0; i < kPairsInATurn; ++i) {
        const std::uint64_t offset = i * 7 % kDaxWindowChunks * kDaxChunk;
        const int set_up = session.set_up(node, {~std::uint64_t{0}, offset, kDaxChunk, kSetupMappingRead, offset});
        const int removed = session.remove(RemoveMappingOne{offset, kDaxChunk});
        if (set_up != 0 || removed != 0) {
            throw SystemError(set_up != 0 ? set_up : removed, "a DAX session's set-up and remove");
        }
    }
    return static_cast<std::int64_t>(thread_time_ns() - start_ns);
}

std::int64_t take_bare_turn(std::byte* window, int fd) {
    const std::uint64_t start_ns = thread_time_ns();
    for (std::uint64_t i = 0; i < kPairsInATurn; ++i) {
        const std::uint64_t offset = i * 7 % kDaxWindowChunks * kDaxChunk;
        const void* const mapped =
            ::mmap(window + offset, kDaxChunk, PROT_READ, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset));
        const void* const hole = ::mmap(window + offset, kDaxChunk, PROT_NONE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (mapped == MAP_FAILED || hole == MAP_FAILED) {
            const int saved = errno;
            throw SystemError(saved, "mmap(MAP_FIXED)");
        }
    }
    return static_cast<std::int64_t>(thread_time_ns() - start_ns);
}

std::tuple<double, double> measure_dax_window(std::uint64_t turns) {
    check_dax_turns(turns);
    const auto files = std::make_shared<HostFiles>();
    const UniqueFd fd = dax_file();
    const std::uint64_t node = files->add_descriptor(fd.duplicate());
    const auto mapper = std::make_shared<WindowMapper>(kDaxBase, kDaxWindowChunks * kDaxChunk);
    const WindowMapper bare(kDaxBase, kDaxWindowChunks * kDaxChunk);
    std::byte* const window = bare.host_at(kDaxBase, 1);
    DaxSession session(files, mapper, {.guest_base = kDaxBase, .window_bytes = kDaxWindowChunks * kDaxChunk});
    std::vector<std::int64_t> bare_ns;
    std::vector<std::int64_t> more_ns;
    for (std::uint64_t turn = 0; turn < turns; ++turn) {
        std::int64_t ours = 0;
        std::int64_t theirs = 0;
        {
            const py::gil_scoped_release release;
            if (turn % 2 == 0) {
                ours = take_session_turn(session, node);
                theirs = take_bare_turn(window, fd.get());
            } else {
                theirs = take_bare_turn(window, fd.get());
                ours = take_session_turn(session, node);
            }
        }
        bare_ns.push_back(theirs);
        more_ns.push_back(ours - theirs);
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
    }
    const auto theirs = static_cast<double>(median_of(bare_ns));
    const auto more = static_cast<double>(median_of(more_ns));
    return {(theirs + more) / kPairsInATurn, theirs / kPairsInATurn};
}

double measure_dax_live(std::uint64_t live, std::uint64_t turns) {
    check_dax_turns(turns);
    constexpr std::uint64_t kGranule = 4096;
    // Every other granule is live, so that none is next to another and a request falls between any two.
    const std::uint64_t window_bytes = (2 * live + 2) * kGranule;
    const auto files = std::make_shared<HostFiles>();
    const std::uint64_t node = files->add_descriptor(dax_file());
    const auto mapper = std::make_shared<RecordingMapper>(1024);
    DaxSession session(files, mapper,
                       {.guest_base = kDaxBase, .window_bytes = window_bytes, .granule_bytes = kGranule});
    std::mt19937_64 random(live);
    std::vector<std::uint64_t> places;
    for (std::uint64_t i = 0; i < live; ++i) {
        places.push_back(2 * i * kGranule);
    }
    std::ranges::shuffle(places, random);  // so that neighbours do not lie side by side in memory
    const auto set_up = [&](std::uint64_t place) {
        if (session.set_up(node, {~std::uint64_t{0}, 0, kGranule, kSetupMappingRead, place}) != 0) {
            throw Error("a set-up failed");
        }
    };
    std::ranges::for_each(places, set_up);
    std::vector<std::int64_t> found_ns;
    for (std::uint64_t turn = 0; turn < turns; ++turn) {
        std::vector<std::uint64_t> asked(kPairsInATurn);
        std::ranges::generate(asked, [&] { return (random() % (live + 1) * 2 + 1) * kGranule; });
        {
            const py::gil_scoped_release release;
            const std::uint64_t start_ns = thread_time_ns();
            for (const std::uint64_t place : asked) {
                set_up(place);
                if (session.remove(RemoveMappingOne{place, kGranule}) != 0) {
                    throw Error("a remove failed");
                }
            }
            found_ns.push_back(static_cast<std::int64_t>(thread_time_ns() - start_ns));
        }
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
    }
    return static_cast<double>(median_of(found_ns)) / kPairsInATurn;
}

}  // namespace

void register_dax_benchmark(py::module_& module) {
    module.def("_measure_dax_window", &measure_dax_window, py::arg("turns"),
               "A set-up and a remove of 2 MiB in a session with a WindowMapper, in turns with the two bare "
               "mmap(MAP_FIXED) calls (the file in, PROT_NONE back): nanoseconds of processor time of a pair of each, "
               "medians over "
               "`turns` of 200 pairs. For tests/benchmarks; Ctrl-C comes between two turns.");
    module.def("_measure_dax_live", &measure_dax_live, py::arg("live"), py::arg("turns"),
               "A set-up and a remove in a session with a RecordingMapper and `live` mappings, at random places: "
               "nanoseconds of processor time of a pair, the median over `turns` of 200.");
}

}  // namespace vmthaw::bindings
