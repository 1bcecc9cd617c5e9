#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/source.hpp"
#include "source/compressed/chunk_compressor.hpp"
#include "source/compressed/compress_file.hpp"
#include "source/compressed/compressed_source.hpp"
#include "source/compressed/packed_source.hpp"
#include "source/xxh64.hpp"

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

py::dict chunk_stats(const ChunkedSource& source) {
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

// One row a chunk: 32 bytes of hash (all zero: zeros), the bytes of its frame and its checksum (u32, little-endian).
std::shared_ptr<PackedSource> open_packed(const std::filesystem::path& directory, const std::string& name,
                                          const std::string& codec, std::uint64_t size, std::uint64_t chunk,
                                          const py::bytes& rows, std::uint64_t cache_bytes) {
    constexpr std::size_t kRowBytes = 40;
    const auto text = static_cast<std::string_view>(rows);
    const ChunkCodec parsed = parse_codec(codec);
    const py::gil_scoped_release release;  // `rows` is the caller's and immutable
    if (text.size() % kRowBytes != 0) {
        throw ArgumentError("rows is " + std::to_string(text.size()) + " bytes, not rows of 40");
    }
    std::vector<PackedEntry> entries(text.size() / kRowBytes);
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const std::string_view row = text.substr(i * kRowBytes, kRowBytes);
        std::memcpy(entries[i].hash.data(), row.data(), 32);
        std::memcpy(&entries[i].packed_bytes, row.data() + 32, 4);
        std::memcpy(&entries[i].checksum, row.data() + 36, 4);
        entries[i].zero = std::all_of(entries[i].hash.begin(), entries[i].hash.end(),
                                      [](std::byte byte) { return byte == std::byte{0}; });
    }
    return std::make_shared<PackedSource>(directory.string(), name, parsed, size, chunk, std::move(entries),
                                          cache_bytes);
}

py::bytes compress_one(ChunkCompressor& compressor, const py::buffer& data) {
    const BufferView view(data);
    std::span<const std::byte> frame;
    {
        const py::gil_scoped_release release;
        frame = compressor.compress(view.bytes());
    }
    return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

py::bytes decompress_one(const py::buffer& frame, const std::string& codec, std::uint64_t size) {
    const ChunkCodec parsed = parse_codec(codec);
    if (size > kLargestChunk) {
        throw ArgumentError("size is " + std::to_string(size) + "; a chunk has at most " +
                            std::to_string(kLargestChunk) + " bytes");
    }
    const BufferView view(frame);
    std::vector<std::byte> bytes(size);
    const char* why = nullptr;
    {
        const py::gil_scoped_release release;
        why = decompress_chunk(parsed, view.bytes(), bytes);
    }
    if (why != nullptr) {
        throw Error(std::string("the frame is damaged: ") + why, "SourceIoError", {{"errno", std::int64_t{EBADMSG}}});
    }
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void register_packed_source(py::module_& module) {
    py::classh<PackedSource, ChunkedSource>(
        module, "PackedSource", py::release_gil_before_calling_cpp_dtor(),
        "A memory whose chunks are files named by their hashes. Open it by vmthaw.source.PackedSource.")
        .def(py::init(&open_packed), py::arg("directory"), py::arg("name"), py::arg("codec"), py::arg("size"),
             py::arg("chunk"), py::arg("rows"), py::arg("cache_bytes") = ChunkedSource::kDefaultCacheBytes,
             "`rows` has 40 bytes for each chunk: its hash (zeros: a chunk of zeros), the bytes of its frame and the "
             "low half of its XXH64, as little-endian u32. Raises SourceOpenError or VmthawValueError. The GIL is "
             "released.");
    py::classh<ChunkCompressor>(module, "ChunkCompressor",
                                "Compresses one chunk after another. For one thread at a time.")
        .def(py::init([](const std::string& codec, std::optional<int> level) {
                 const ChunkCodec parsed = parse_codec(codec);
                 return std::make_unique<ChunkCompressor>(parsed,
                                                          level.value_or(ChunkCompressor::default_level(parsed)));
             }),
             py::arg("codec"), py::arg("level") = py::none(),
             "`codec` is \"zstd\" or \"lz4\"; `level` None is its default. Raises VmthawValueError.")
        .def("compress", &compress_one, py::arg("data"), "One frame of the contiguous buffer. The GIL is released.");
    module.def("decompress_chunk", &decompress_one, py::arg("frame"), py::arg("codec"), py::arg("size"),
               "The `size` bytes (at most 4 MiB) that one frame holds. Raises SourceIoError (EBADMSG) for any other. "
               "The GIL is released.");
    module.def(
        "xxh64",
        [](const py::buffer& data) {
            const BufferView view(data);
            const py::gil_scoped_release release;
            return xxh64(view.bytes());
        },
        py::arg("data"), "XXH64 with seed 0 of a contiguous buffer. The GIL is released.");
}

}  // namespace

void register_compressed_source(py::module_& module) {
    py::classh<ChunkedSource, PageSource>(module, "ChunkedSource", py::release_gil_before_calling_cpp_dtor(),
                                          "A memory in compressed chunks; see its subclasses.")
        .def_property_readonly(
            "codec", [](const ChunkedSource& source) { return name_of(source.index().codec()); },
            "\"zstd\" or \"lz4\".")
        .def_property_readonly(
            "chunks", [](const ChunkedSource& source) { return source.index().count(); }, "The number of chunks.")
        .def_property_readonly(
            "largest_chunk", [](const ChunkedSource& source) { return source.index().largest(); },
            "Bytes of memory in the largest chunk.")
        .def("cache_stats", &chunk_stats,
             "Counters since open, as a dict: `loads` (chunks decompressed), `failures`, `hits`, `joins` (reads that "
             "waited for a load of somebody else's) and `evictions`. The GIL is released.");
    py::classh<CompressedSource, ChunkedSource>(
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
            "The path as it was given.");
    register_packed_source(module);
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
