#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/error.hpp"
#include "bindings/source.hpp"
#include "source/cached/cached_source.hpp"

// GIL and locking: a cache takes locks and waits for its source, so every call into it releases the GIL first.
namespace vmthaw::bindings {
namespace {

std::shared_ptr<CachedSource> open_cached(const std::shared_ptr<PageSource>& source, std::uint64_t chunk,
                                          std::uint64_t memory, const std::optional<std::filesystem::path>& disk,
                                          std::uint64_t disk_size, const std::string& identity) {
    CachedSourceConfig config{.chunk_bytes = chunk, .memory_bytes = memory, .disk = std::nullopt};
    if (disk) {
        if (identity.empty()) {
            throw ArgumentError("a disk cache outlives the process: give an identity that no other bytes ever have");
        }
        config.disk = DiskChunksConfig{disk->string(), identity, disk_size};
    }
    const py::gil_scoped_release release;
    return std::make_shared<CachedSource>(source, std::move(config));
}

py::dict cached_stats(const CachedSource& source) {
    ChunkCacheStats memory;
    DiskChunksStats disk;
    {
        const py::gil_scoped_release release;
        memory = source.memory_stats();
        disk = source.disk_stats();
    }
    using namespace py::literals;
    return py::dict("hits"_a = memory.hits, "joins"_a = memory.joins, "loads"_a = memory.loads,
                    "failures"_a = memory.failures, "evictions"_a = memory.evictions, "disk_hits"_a = disk.hits,
                    "disk_misses"_a = disk.misses, "disk_damaged"_a = disk.damaged, "disk_failures"_a = disk.failures,
                    "disk_evictions"_a = disk.evictions);
}

}  // namespace

void register_cached_source(py::module_& module) {
    constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
    py::classh<CachedSource, PageSource>(
        module, "CachedSource", py::release_gil_before_calling_cpp_dtor(),
        "A far source, read in aligned chunks: each is fetched once however many faults wait for it, and kept in "
        "memory, "
        "and on disk where a directory is given, as far as there is room. Zeros are never fetched.")
        .def(py::init(&open_cached), py::arg("source"), py::kw_only(), py::arg("chunk") = kMiB,
             py::arg("memory") = 256 * kMiB, py::arg("disk") = py::none(), py::arg("disk_size") = 10240 * kMiB,
             py::arg("identity") = "",
             "`chunk`, `memory` and `disk_size` in bytes; a chunk is a power of two from 4 KiB to 64 MiB. `disk`: a "
             "directory, which other sources and processes may share and which outlives them; `identity` says whose "
             "bytes they are, and must change when those do. What is found damaged there is fetched again. Closing it "
             "closes the source. Raises VmthawValueError, or VmthawOSError of the directory. The GIL is released.")
        .def_property_readonly("chunk", &CachedSource::chunk_bytes, "Bytes of a chunk.")
        .def_property_readonly(
            "cache_stats", &cached_stats,
            "Counts since it was opened: hits, joins (reads that waited for somebody else's fetch), loads (chunks "
            "brought), failures, evictions; and of the disk disk_hits, disk_misses, disk_damaged, disk_failures "
            "(chunks "
            "that could not be kept), disk_evictions.");
}

}  // namespace vmthaw::bindings
