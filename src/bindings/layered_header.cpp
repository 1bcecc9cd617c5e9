#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/buffer_view.hpp"
#include "bindings/source.hpp"
#include "source/layered/layered_header.hpp"
#include "source/layered/layered_header_reader.hpp"
#include "source/layered/layered_header_writer.hpp"
#include "source/layered/layered_layers.hpp"

// GIL: parsing and writing run without it (a header may be a hundred megabytes); no lock is taken.
namespace vmthaw::bindings {
namespace {

using MappingRow = std::tuple<std::uint64_t, std::uint64_t, py::bytes, std::uint64_t>;
using FrameRow = std::tuple<std::uint64_t, std::uint64_t, std::uint32_t, std::uint32_t>;
using BuildRow = std::tuple<py::bytes, std::uint64_t, py::bytes, std::uint8_t, std::vector<FrameRow>>;

py::bytes bytes_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename Array>
void take_array(const py::bytes& given, Array& array, const char* what) {
    const std::string text = given;
    if (text.size() != array.size()) {
        throw ArgumentError(std::string(what) + " has " + std::to_string(text.size()) + " bytes; it must have " +
                            std::to_string(array.size()));
    }
    std::memcpy(array.data(), text.data(), text.size());
}

std::shared_ptr<LayeredHeader> read_header(const py::object& data) {
    const BufferView view(data);
    const py::gil_scoped_release release;
    return std::make_shared<LayeredHeader>(read_layered_header(view.bytes()));
}

py::bytes write_header(const LayeredHeader& header, std::uint16_t version) {
    std::vector<std::byte> bytes;
    {
        const py::gil_scoped_release release;
        bytes = write_layered_header(header, version);
    }
    return bytes_of(bytes);
}

void add_build(LayeredHeader& header, const BuildRow& row) {
    const auto& [uuid, file_size, checksum, codec, frames] = row;
    LayeredBuild build;
    take_array(uuid, build.uuid.bytes, "a build's UUID");
    take_array(checksum, build.checksum, "a checksum");
    if (codec > static_cast<std::uint8_t>(FrameCodec::lz4)) {
        throw ArgumentError("codec " + std::to_string(codec) + " is none of 0 (none), 1 (zstd) and 2 (lz4)");
    }
    build.file_size = file_size;
    build.codec = static_cast<FrameCodec>(codec);
    for (const auto& [start, compressed_start, size, compressed_size] : frames) {
        build.frames.push_back({start, compressed_start, size, compressed_size});
    }
    header.builds.push_back(std::move(build));
}

std::shared_ptr<LayeredHeader> make_header(std::uint64_t version, std::uint64_t block_size, std::uint64_t size,
                                           std::uint64_t generation, const py::bytes& build,
                                           const py::bytes& base_build, const std::vector<MappingRow>& mappings,
                                           const std::vector<BuildRow>& builds) {
    constexpr unsigned kVersionShift = 16;
    auto header = std::make_shared<LayeredHeader>();
    header->version = static_cast<std::uint16_t>(version);
    header->version_rest = version >> kVersionShift;
    header->block_size = block_size;
    header->size = size;
    header->generation = generation;
    take_array(build, header->build.bytes, "build");
    take_array(base_build, header->base_build.bytes, "base_build");
    std::map<Uuid, std::uint32_t> numbers;
    for (const auto& [offset, length, uuid_bytes, storage] : mappings) {
        Uuid uuid;
        take_array(uuid_bytes, uuid.bytes, "a mapping's build");
        const auto [found, is_new] = numbers.try_emplace(uuid, static_cast<std::uint32_t>(header->uuids.size()));
        if (is_new) {
            header->uuids.push_back(uuid);
        }
        header->mappings.push_back({offset, length, storage, found->second});
    }
    for (const BuildRow& row : builds) {
        add_build(*header, row);
    }
    check_layered_header(*header);
    return header;
}

py::list mapping_rows(const LayeredHeader& header) {
    std::vector<py::bytes> uuids;
    for (const Uuid& uuid : header.uuids) {
        uuids.push_back(bytes_of(uuid.bytes));
    }
    py::list rows;
    for (const LayeredMapping& mapping : header.mappings) {
        rows.append(py::make_tuple(mapping.offset, mapping.length, uuids.at(mapping.build), mapping.storage));
    }
    return rows;
}

py::list build_rows(const LayeredHeader& header) {
    py::list rows;
    for (const LayeredBuild& build : header.builds) {
        py::list frames;
        for (const LayeredFrame& frame : build.frames) {
            frames.append(py::make_tuple(frame.start, frame.compressed_start, frame.size, frame.compressed_size));
        }
        rows.append(py::make_tuple(bytes_of(build.uuid.bytes), build.file_size, bytes_of(build.checksum),
                                   static_cast<unsigned>(build.codec), frames));
    }
    return rows;
}

}  // namespace

void register_layered_header(py::module_& module) {
    py::classh<LayeredHeader>(module, "LayeredHeader", "The core's half of vmthaw.LayeredHeader; immutable.")
        .def(py::init(&make_header), py::arg("version"), py::arg("block_size"), py::arg("size"), py::arg("generation"),
             py::arg("build"), py::arg("base_build"), py::arg("mappings"), py::arg("builds"),
             "`mappings`: rows (offset, length, UUID bytes, storage); `builds`: rows (UUID bytes, size, SHA-256 bytes, "
             "codec, frames), frames: rows (start, compressed start, size, compressed size). Raises "
             "LayeredHeaderError or VmthawValueError.")
        .def_static("read", &read_header, py::arg("data"),
                    "The header that these bytes are. Raises LayeredHeaderError. The GIL is released.")
        .def("write", &write_header, py::arg("version"),
             "Its bytes in that version. Raises LayeredHeaderError. The GIL is released.")
        .def_property_readonly(
            "version",
            [](const LayeredHeader& header) {
                constexpr unsigned kVersionShift = 16;
                return std::uint64_t{header.version} | header.version_rest << kVersionShift;
            },
            "The format in the low 16 bits, and whatever is above.")
        .def_readonly("block_size", &LayeredHeader::block_size, "Bytes.")
        .def_readonly("size", &LayeredHeader::size, "Bytes of the memory.")
        .def_readonly("generation", &LayeredHeader::generation, "How many snapshots precede it.")
        .def_property_readonly(
            "build", [](const LayeredHeader& header) { return bytes_of(header.build.bytes); }, "16 bytes.")
        .def_property_readonly(
            "base_build", [](const LayeredHeader& header) { return bytes_of(header.base_build.bytes); }, "16 bytes.")
        .def(
            "used_builds",
            [](const LayeredHeader& header) {
                std::vector<py::bytes> used;
                const std::vector<BuildUse> uses = uses_of_builds(header);
                for (std::size_t i = 0; i < uses.size(); ++i) {
                    if (uses[i].bytes > 0 && !header.uuids[i].is_nil()) {
                        used.push_back(bytes_of(header.uuids[i].bytes));
                    }
                }
                return used;
            },
            "The UUIDs that mappings point at, without nil, as 16 bytes each.")
        .def("mapping_rows", &mapping_rows, "Rows as the constructor takes them.")
        .def("build_rows", &build_rows, "Rows as the constructor takes them.");
}

}  // namespace vmthaw::bindings
