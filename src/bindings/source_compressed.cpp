#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/error.hpp"
#include "bindings/source.hpp"
#include "bindings/text.hpp"
#include "source/compress_file.hpp"
#include "source/compressed_source.hpp"

// GIL and locking: opening, reading and compressing run with the GIL released. `progress` is called on the calling
// thread, with the GIL and without any lock of the core's; its threads never see Python but through the source they
// read, which takes the GIL on threads of Python's own.
namespace vmthaw::bindings {
namespace {

const char* name_of(ChunkCodec codec) { return codec == ChunkCodec::zstd ? "zstd" : "lz4"; }

ChunkCodec parse_codec(const std::string& text) {
    if (text == "zstd" || text == "lz4") {
        return text == "zstd" ? ChunkCodec::zstd : ChunkCodec::lz4;
    }
    throw ArgumentError("codec must be \"zstd\" or \"lz4\", not \"" + text + "\"");
}

py::dict stats_of(const CompressedSource& source) {
    ChunkCacheStats stats;
    {
        const py::gil_scoped_release release;
        stats = source.cache_stats();
    }
    py::dict result;
    result["loads"] = stats.loads;
    result["failures"] = stats.failures;
    result["hits"] = stats.hits;
    result["joins"] = stats.joins;
    result["evictions"] = stats.evictions;
    return result;
}

py::dict compress(PageSource& source, const std::filesystem::path& path, const std::string& codec, std::uint64_t chunk,
                  std::optional<int> level, unsigned threads, const py::object& progress) {
    const CompressOptions options{
        .codec = parse_codec(codec), .chunk_bytes = chunk, .level = level, .threads = threads};
    const auto report = [&progress](std::uint64_t done, std::uint64_t total) {
        const py::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
        if (!progress.is_none()) {
            progress(done, total);
        }
    };
    CompressResult result;
    {
        const py::gil_scoped_release release;
        result = compress_file(source, path.string(), options, report);
    }
    py::dict answer;
    answer["bytes"] = result.bytes;
    answer["packed_bytes"] = result.packed_bytes;
    answer["chunks"] = result.chunks;
    answer["zero_chunks"] = result.zero_chunks;
    return answer;
}

}  // namespace

void register_compressed_source(py::module_& module) {
    py::classh<CompressedSource, PageSource>(
        module, "CompressedSource", py::release_gil_before_calling_cpp_dtor(),
        "A memory in compressed chunks of 4 KiB to 4 MiB: a file in zstd's seekable format, or one of LZ4 frames that "
        "say how long their contents are (what compress_file() writes, and others). A chunk is decompressed on a "
        "source thread, once for however many faults wait for it; chunks of zeros are known at open and never read.")
        .def(py::init([](const std::filesystem::path& path, std::uint64_t cache_bytes) {
                 const py::gil_scoped_release release;
                 return std::make_shared<CompressedSource>(path.string(), cache_bytes);
             }),
             py::arg("path"), py::arg("cache_bytes") = CompressedSource::kDefaultCacheBytes,
             "Opens `path` and reads its index. Up to `cache_bytes` of decompressed chunks are held, never fewer than "
             "two chunks. Raises SourceOpenError, whose `field` names the part of the index that is wrong. A damaged "
             "chunk is a SourceIoError (EBADMSG) of the reads that need it, a file that was cut a ShortReadError. The "
             "GIL is "
             "released.")
        .def_property_readonly(
            "path", [](const CompressedSource& source) { return std::filesystem::path(source.path()); },
            "The path as it was given.")
        .def_property_readonly(
            "codec", [](const CompressedSource& source) { return name_of(source.index().codec()); },
            "\"zstd\" or \"lz4\".")
        .def_property_readonly(
            "chunks", [](const CompressedSource& source) { return source.index().count(); }, "The number of chunks.")
        .def_property_readonly(
            "largest_chunk", [](const CompressedSource& source) { return source.index().largest(); },
            "Bytes of memory in the largest chunk.")
        .def("cache_stats", &stats_of,
             "Counters since open, as a dict: `loads` (chunks decompressed), `failures`, `hits`, `joins` (reads that "
             "waited for a load of somebody else's) and `evictions`. The GIL is released.");
    module.def(
        "compress_file", &compress, py::arg("source"), py::arg("path"), py::arg("codec") = "zstd",
        py::arg("chunk") = CompressOptions{}.chunk_bytes, py::arg("level") = py::none(), py::arg("threads") = 0,
        py::arg("progress") = py::none(),
        "Writes the memory that `source` is to `path`, as CompressedSource reads it and the codec's own tool "
        "decompresses it. `chunk` is a power of two from 4096 to 4194304 bytes; `level` None is zstd's 3 or lz4's "
        "0; `threads` 0 is one for each processor. `progress(done, total)`, in bytes, is called some ten times a "
        "second on the calling thread; what it raises ends the work, as Ctrl-C does. The file (mode 0600) appears "
        "complete or not at all. Gives a dict: bytes, packed_bytes, chunks, zero_chunks. Raises "
        "VmthawValueError, VmthawOSError, or what reading the source raises. The GIL is released.");
}

}  // namespace vmthaw::bindings
