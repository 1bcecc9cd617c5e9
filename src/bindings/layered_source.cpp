#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/source.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/compressed/zstd_frame.hpp"
#include "source/layered/layered_map.hpp"
#include "source/layered/layered_source.hpp"

// GIL and locking: opening builds and looking at the cache of frames, which has a lock, run with the GIL released.
namespace vmthaw::bindings {
namespace {

std::shared_ptr<LayeredSource> open_layers(const LayeredHeader& header,
                                           const std::map<std::string, std::shared_ptr<PageSource>>& builds,
                                           std::size_t cache_bytes) {
    LayeredSource::Builds layers;
    for (const auto& [text, source] : builds) {
        Uuid uuid;
        if (text.size() != uuid.bytes.size()) {
            throw ArgumentError("a build's UUID has " + std::to_string(text.size()) + " bytes; it must have 16");
        }
        std::memcpy(uuid.bytes.data(), text.data(), text.size());
        layers.emplace(uuid, source);
    }
    const py::gil_scoped_release release;
    return std::make_shared<LayeredSource>(header, layers, cache_bytes);
}

py::tuple resolve_bytes(const LayeredSource& source, std::uint64_t offset) {
    const LayeredSource::Resolved found = source.resolve(offset);
    const py::bytes uuid(reinterpret_cast<const char*>(found.build.bytes.data()), found.build.bytes.size());
    return py::make_tuple(uuid, found.storage, found.remaining);
}

py::bytes compress_frame(const py::object& data, int codec) {
    constexpr int kZstdLevel = 3;
    const BufferView view(data);
    std::vector<std::byte> frame;
    {
        const py::gil_scoped_release release;
        if (codec == static_cast<int>(FrameCodec::zstd)) {
            frame = zstd_compress(view.bytes(), kZstdLevel);
        } else if (codec == static_cast<int>(FrameCodec::lz4)) {
            frame = lz4_compress(view.bytes());
        } else {
            throw ArgumentError("codec " + std::to_string(codec) + " is neither 1 (zstd) nor 2 (lz4)");
        }
    }
    return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

// The next of a sequence of numbers that no prefetcher guesses, mixed with what was found, so that loads wait for each
// other.
std::uint64_t next_random(std::uint64_t state, std::uint64_t found) {
    constexpr std::uint64_t kMultiplier = 6364136223846793005U;
    constexpr std::uint64_t kIncrement = 1442695040888963407U;
    return state * kMultiplier + kIncrement + (found & 1U);
}

template <typename Look>
double time_random(std::uint64_t blocks, std::uint64_t lookups, const Look& look) {
    constexpr unsigned kHighBits = 32;
    if (blocks == 0 || lookups == 0) {
        throw ArgumentError("a header without blocks has nothing to look up");
    }
    std::uint64_t state = 1;
    const std::uint64_t begin_ns = monotonic_ns();
    for (std::uint64_t i = 0; i < lookups; ++i) {
        state = next_random(state, look((state >> kHighBits) % blocks));
    }
    const auto ns = static_cast<double>(monotonic_ns() - begin_ns);
    return (state == 0 ? 0.0 : ns) / static_cast<double>(lookups);
}

// Nanoseconds for a look-up of a random block, and for a load of a random element of an array with an element a block.
std::pair<double, double> layered_lookup_ns(const LayeredHeader& header, bool table, std::uint64_t lookups) {
    constexpr std::uint64_t kBlock = 4096;
    std::vector<std::uint32_t> layers;
    for (std::size_t i = 0; i < header.uuids.size(); ++i) {
        layers.push_back(header.uuids[i].is_nil() ? LayeredMap::kZeros : static_cast<std::uint32_t>(i));
    }
    const LayeredMap map(header, layers, table ? LayeredMap::Kind::table : LayeredMap::Kind::search);
    const std::uint64_t blocks = header.size / kBlock;
    std::vector<std::uint64_t> array(blocks);
    for (std::uint64_t i = 0; i < blocks; ++i) {
        array[i] = i * i;
    }
    const double lookup_ns =
        time_random(blocks, lookups, [&](std::uint64_t block) { return map.at(block * kBlock, kBlock).storage; });
    const double load_ns = time_random(blocks, lookups, [&](std::uint64_t block) { return array[block]; });
    return {lookup_ns, load_ns};
}

}  // namespace

void register_layered_source(py::module_& module) {
    py::classh<LayeredSource, PageSource>(module, "LayeredSource", py::release_gil_before_calling_cpp_dtor(),
                                          "The core's half of vmthaw.LayeredSource.")
        .def(py::init(&open_layers), py::arg("header"), py::arg("builds"),
             py::arg("cache_bytes") = LayeredSource::kCacheBytes,
             "`builds`: UUID bytes to source. Raises SourceOpenError, which names the build. The GIL is released.")
        .def("resolve_bytes", &resolve_bytes, py::arg("offset"),
             "(UUID bytes, storage offset, bytes that follow there). Raises SourceRangeError.")
        .def_property_readonly("layer_count", &LayeredSource::layer_count, "How many builds are read.")
        .def_property_readonly(
            "cached_bytes",
            py::cpp_function([](const LayeredSource& source) { return source.frames().held_bytes(); }, ReleaseGil()),
            "Bytes of decompressed frames that are held, each as much as the largest.")
        .def_property_readonly(
            "decompressed_frames",
            py::cpp_function([](const LayeredSource& source) { return source.frames().stats().loads; }, ReleaseGil()),
            "How many frames were decompressed so far.");
    module.attr("LAYERED_FEW_RUNS") = LayeredMap::kFewRuns;
    module.def("compress_frame", &compress_frame, py::arg("data"), py::arg("codec"),
               "One frame, as compressed builds have them, of 1 (zstd) or 2 (lz4). The GIL is released.");
    module.def("layered_lookup_ns", &layered_lookup_ns, py::arg("header"), py::arg("table"), py::arg("lookups"),
               ReleaseGil(),
               "Nanoseconds of a look-up of a random block (by the table, or by binary search) and of a random load "
               "from an array as long. The header needs 4 KiB blocks. For benchmarks.");
}

}  // namespace vmthaw::bindings
