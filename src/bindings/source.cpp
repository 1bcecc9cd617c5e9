#include "bindings/source.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "bindings/detached_call.hpp"
#include "bindings/text.hpp"
#include "source/file/file_source.hpp"
#include "source/file/sparse_diff_source.hpp"
#include "source/page_source.hpp"
#include "source/zero_source.hpp"

// GIL and locking: whatever may wait for a disk, for Python threads or for a lock runs with the GIL released; results
// become Python objects after it was taken again. Destructors run without it (they unmap files and lock queues). A read
// that waits on the main thread is done by a thread of its own, which owns what it touches, so that Ctrl-C ends it.
namespace vmthaw::bindings {
namespace {

[[noreturn]] void throw_closed(const PageSource& source) {
    throw_read_error(source, source.start(), 0, {.status = ReadStatus::closed});
}

// Python's signal handlers run on this thread alone.
bool is_main_thread() { return ::getpid() == static_cast<pid_t>(::syscall(SYS_gettid)); }

// A read of the main thread, by a thread of its own. The bytes object is written there without the GIL: nobody else has
// seen it, and after Ctrl-C it is kept until the reading is done with it.
struct Reading {
    py::bytes bytes;
    std::atomic<bool> done{false};
    ReadResult result;
};

// Whose reader gave up, but for those that are done; guarded by the GIL, not freed at exit: a thread may still write.
std::vector<std::shared_ptr<Reading>>& given_up() {
    static auto* const readings = new std::vector<std::shared_ptr<Reading>>;
    std::erase_if(*readings, [](const auto& reading) { return reading->done.load(std::memory_order_acquire); });
    return *readings;
}

ReadResult read_interruptibly(const std::shared_ptr<PageSource>& source, std::uint64_t offset, const py::bytes& bytes,
                              std::span<std::byte> out) {
    given_up();
    const auto reading = std::make_shared<Reading>(bytes);
    try {
        // The thread has no share in it: to drop the last one would take the GIL.
        call_detached("vmthaw-read", "reading a page source", std::numeric_limits<double>::infinity(),
                      [source, offset, out, mine = reading.get()] {
                          mine->result = source->read(offset, out);
                          mine->done.store(true, std::memory_order_release);
                      });
    } catch (const py::error_already_set&) {
        given_up().push_back(reading);
        throw;
    }
    return reading->result;
}

ReadResult read_into(const std::shared_ptr<PageSource>& source, std::uint64_t offset, const py::bytes& bytes) {
    // JUSTIFICATION: nobody else has seen this bytes object yet, so it may be written without the GIL.
    const std::span out(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes.ptr())), py::len(bytes));
    {
        const py::gil_scoped_release release;
        if (!is_main_thread() || source->ready(offset, out.size())) {
            return source->read(offset, out);
        }
        if (out.size() <= kLargestSourcePage && source->read_now(offset, out) && source->still_whole().ok()) {
            return {};
        }
    }
    return read_interruptibly(source, offset, bytes, out);
}

py::bytes read(const std::shared_ptr<PageSource>& source, std::uint64_t offset, std::uint64_t size) {
    if (is_closed(*source)) {
        throw_closed(*source);
    }
    if (size > source->size() + kLargestSourcePage) {  // before memory is asked for
        throw_read_error(*source, offset, size, {.status = ReadStatus::out_of_range});
    }
    auto bytes = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(size)));
    if (!bytes) {
        throw py::error_already_set();
    }
    const ReadResult result = read_into(source, offset, bytes);
    if (!result.ok()) {
        throw_read_error(*source, offset, size, result);
    }
    return bytes;
}

void prepare(const std::shared_ptr<PageSource>& source, std::uint64_t offset, std::uint64_t size) {
    const auto result = std::make_shared<ReadResult>();
    const auto work = [source, offset, size, result] { *result = source->prepare(offset, size); };
    if (is_main_thread()) {
        call_detached("vmthaw-read", "preparing a page source", std::numeric_limits<double>::infinity(), work);
    } else {
        const py::gil_scoped_release release;
        work();
    }
    if (!result->ok()) {
        throw_read_error(*source, offset, size, *result);
    }
}

py::array rows_of(const PageSource& source, const std::function<std::vector<Extent>()>& list) {
    if (is_closed(source)) {
        throw_closed(source);
    }
    auto rows = std::make_unique<std::vector<Extent>>();
    {
        const py::gil_scoped_release release;
        *rows = list();
    }
    py::list names;
    py::list formats;
    py::list offsets;
    const auto field = [&](const char* name, const char* format, std::size_t offset) {
        names.append(name);
        formats.append(py::str(format));
        offsets.append(offset);
    };
    field("offset", "<u8", offsetof(Extent, offset));
    field("size", "<u8", offsetof(Extent, size));
    field("kind", "u1", offsetof(Extent, kind));
    const py::dtype dtype(names, formats, offsets, static_cast<py::ssize_t>(sizeof(Extent)));
    const auto count = static_cast<py::ssize_t>(rows->size());
    const void* data = rows->data();
    const py::capsule owner(rows.release(), [](void* pointer) { delete static_cast<std::vector<Extent>*>(pointer); });
    return py::array(dtype, {count}, {static_cast<py::ssize_t>(sizeof(Extent))}, data, owner);
}

py::array extents(const PageSource& source) {
    return rows_of(source, [&source] { return source.extents(); });
}

py::array diff_extents(const SparseDiffSource& source, std::size_t layer) {
    return rows_of(source, [&source, layer] { return source.diff_extents(layer); });
}

py::tuple extent_at(const PageSource& source, std::uint64_t offset, std::uint64_t limit) {
    const Extent extent = source.extent_at(offset, limit);
    return py::make_tuple(extent.offset, extent.size, extent.kind);
}

ShortPolicy parse_short(const std::string& text) {
    if (text == "zero" || text == "error") {
        return text == "zero" ? ShortPolicy::zero : ShortPolicy::error;
    }
    throw ArgumentError("short must be \"zero\" (the rest of the last page is zeros) or \"error\", not \"" + text +
                        "\"");
}

FileMode parse_mode(const std::string& text) {
    if (text == "mapped" || text == "pread") {
        return text == "mapped" ? FileMode::mapped : FileMode::pread;
    }
    throw ArgumentError("mode must be \"mapped\" (copy from a mapping) or \"pread\", not \"" + text + "\"");
}

std::shared_ptr<FileSource> open_file(const std::filesystem::path& path, std::uint64_t ram_start,
                                      const std::string& short_policy, const std::string& mode) {
    const ShortPolicy parsed_short = parse_short(short_policy);
    const FileMode parsed_mode = parse_mode(mode);
    const py::gil_scoped_release release;
    return std::make_shared<FileSource>(path.string(), ram_start, parsed_short, parsed_mode);
}

std::shared_ptr<SparseDiffSource> open_diffs(
    const std::shared_ptr<PageSource>& base, const std::vector<std::filesystem::path>& paths,
    const std::optional<std::vector<std::optional<py::bytes>>>& changed_pages) {
    std::vector<SparseDiff> diffs;
    if (changed_pages && changed_pages->size() != paths.size()) {
        throw ArgumentError("there are " + std::to_string(paths.size()) + " diffs, and changed pages of " +
                            std::to_string(changed_pages->size()));
    }
    for (std::size_t i = 0; i < paths.size(); ++i) {
        diffs.push_back({paths[i].string(), std::nullopt});
        if (!changed_pages) {
            continue;
        }
        if (const auto& given = (*changed_pages)[i]) {
            const auto text = static_cast<std::string_view>(*given);
            if (text.size() % sizeof(std::uint64_t) != 0) {
                throw ArgumentError("the changed pages of " + diffs.back().path + " are no words of 64 bits");
            }
            auto& words = diffs.back().changed_pages.emplace(text.size() / sizeof(std::uint64_t));
            std::memcpy(words.data(), text.data(), text.size());
        }
    }
    const py::gil_scoped_release release;
    return std::make_shared<SparseDiffSource>(base, diffs);
}

py::str repr(const py::object& self) {
    const auto name = py::type::of(self).attr("__name__").cast<std::string>();
    // A constructor that raised leaves an object without a source in it, which a traceback with its locals shows.
    if (!reinterpret_cast<py::detail::instance*>(self.ptr())->get_value_and_holder().holder_constructed()) {
        return text_of("<" + name + ", never opened>");
    }
    const auto& source = self.cast<const PageSource&>();
    const char* state = source.inherited() ? ", inherited by fork" : is_closed(source) ? ", closed" : "";
    return text_of("<" + name + " " + source.description() + ", " + std::to_string(source.size()) + " bytes" + state +
                   ">");
}

void register_page_source(py::module_& module) {
    using NoGil = py::call_guard<py::gil_scoped_release>;
    py::native_enum<ExtentKind>(module, "ExtentKind", "enum.IntEnum", "What a range of a page source is.")
        .value("data", ExtentKind::data, "bytes that have to be read")
        .value("zero", ExtentKind::zero, "zeros that are never read")
        .value("unchanged", ExtentKind::unchanged, "as in the layer below; in diffs only")
        .finalize();
    py::classh<PageSource>(module, "PageSource", py::release_gil_before_calling_cpp_dtor(),
                           "Where page bytes come from. Offsets and sizes are bytes into the memory file. Every method "
                           "may be called from any thread.")
        .def_property_readonly("start", &PageSource::start, "The first offset served, in bytes.")
        .def_property_readonly("size", &PageSource::size, "Bytes served from `start` on, as they were at open.")
        .def_property_readonly(
            "description", [](const PageSource& source) { return text_of(source.description()); },
            "Short text for messages and statistics: file:/path, zero, python:name.")
        .def_property_readonly("closed", &is_closed, "True after close(), and in a child that inherited it by fork().")
        .def_property_readonly("inherited", &PageSource::inherited, "True in a child that got the source by fork().")
        .def("covers", &PageSource::covers, py::arg("offset"), py::arg("size"),
             "True when the range can be served, be it as zeros behind the end of a file.")
        .def("extent_at", &extent_at, py::arg("offset"), py::arg("limit"),
             "(offset, size, ExtentKind) of what lies at `offset`, at most `limit` bytes of it. No input or output.")
        .def("extents", &extents,
             "All extents in order, as a numpy array with the fields offset, size (u8, bytes) and kind (an ExtentKind "
             "value). Raises StateError when closed. The GIL is released.")
        .def("read", &read, py::arg("offset"), py::arg("size"),
             "The `size` bytes at `offset`, holes as zeros, all or nothing. Blocks, with the GIL released; Ctrl-C ends "
             "it. "
             "Raises ShortReadError, SourceIoError, SourceRangeError or StateError (closed).")
        .def("ready", &PageSource::ready, py::arg("offset"), py::arg("size"), NoGil(),
             "True when the range can be installed without waiting for a disk, a network or Python. The GIL is "
             "released.")
        .def(
            "prepare", &prepare, py::arg("offset"), py::arg("size"),
            "Brings the range to where it is installed without waiting. Blocks, with the GIL released; Ctrl-C ends it. "
            "Raises what read() raises.")
        .def(
            "still_whole", [](const PageSource& source) { return source.still_whole().ok(); }, NoGil(),
            "False when the source has lost bytes since it was opened (a file that was cut) or is closed.")
        .def("close", &PageSource::close, NoGil(),
             "Ends the source: reads that wait end, later ones raise StateError. Idempotent. Descriptors and mappings "
             "are freed with the last user of the object. The GIL is released.")
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](const py::object& self, const py::args& /*exception*/) { self.attr("close")(); })
        .def("__repr__", &repr);
}

}  // namespace

std::vector<Extent> extents_of(const std::optional<std::vector<ExtentRow>>& rows) {
    std::vector<Extent> extents;
    if (!rows) {
        return extents;
    }
    for (const auto& [offset, size, kind] : *rows) {
        if (kind > static_cast<std::uint8_t>(ExtentKind::unchanged)) {
            throw ArgumentError("extent kind " + std::to_string(kind) + " is none of ExtentKind's values");
        }
        extents.push_back({offset, size, static_cast<ExtentKind>(kind)});
    }
    if (extents.empty()) {
        throw ArgumentError("extents is empty: leave it out when everything is data");
    }
    return extents;
}

bool is_closed(const PageSource& source) noexcept { return source.is_closed(); }

void register_source(py::module_& module) {
    register_page_source(module);
    py::classh<FileSource, PageSource>(
        module, "FileSource", py::release_gil_before_calling_cpp_dtor(),
        "A memory file. Its end is its size at open; when it shrinks afterwards every read is a ShortReadError. Holes "
        "are zeros without reading.")
        .def(
            py::init(&open_file), py::arg("path"), py::arg("ram_start") = 0, py::arg("short") = "zero",
            py::arg("mode") = "mapped",
            "Opens `path`. `ram_start` (a multiple of 4096) is the offset of the file's first byte; offsets below it "
            "are SourceRangeError. `short` says what a page across the end of the file is: \"zero\" (zeros to its "
            "end) or \"error\" (ShortReadError). `mode` \"mapped\" lets the kernel copy from a mapping; a "
            "page that somebody cuts the file in may have zeros behind the new end for a millisecond. \"pread\" copies "
            "once more, looks at the size after that, and never gives such zeros. Raises SourceOpenError or "
            "VmthawValueError. The GIL is released.")
        .def_property_readonly(
            "path", [](const FileSource& source) { return std::filesystem::path(source.path()); },
            "The path as it was given.")
        .def_property_readonly(
            "ram_start", [](const FileSource& source) { return source.start(); }, "The same as `start`.")
        .def_property_readonly(
            "short",
            [](const FileSource& source) { return source.short_policy() == ShortPolicy::zero ? "zero" : "error"; },
            "What the end of the file means: \"zero\" or \"error\".")
        .def_property_readonly(
            "mode", [](const FileSource& source) { return source.mode() == FileMode::mapped ? "mapped" : "pread"; },
            "\"mapped\" or \"pread\".");
    py::classh<SparseDiffSource, PageSource>(
        module, "SparseDiffSource", py::release_gil_before_calling_cpp_dtor(),
        "A memory and diffs over it, as Firecracker writes them: each page comes from the newest that has it.")
        .def(py::init(&open_diffs), py::arg("base"), py::arg("diffs"), py::arg("changed_pages") = py::none(),
             "`base` is any source that begins at 0; `diffs` are sparse files as long as it, the oldest first. Their "
             "holes are what is below, zeros in them are zeros. `changed_pages`, one for each diff (a bit for each 4 "
             "KiB page, in words of 64, or None), says instead of the holes what a diff has: a copied file may have "
             "other holes. Closing it closes the base. Raises SourceOpenError, which names the file, or "
             "VmthawValueError. The GIL is released.")
        .def("layer_at", &SparseDiffSource::layer_at, py::arg("offset"),
             "Where the page at `offset` comes from: 0 is the base, 1 the oldest diff.")
        .def("diff_extents", &diff_extents, py::arg("layer"),
             "What a diff has, 1 the oldest, in rows as extents() gives them: data, zeros that were written down, and "
             "unchanged, which lies in a layer below. Raises VmthawValueError or StateError. The GIL is released.")
        .def_property_readonly(
            "depth", [](const SparseDiffSource& source) { return source.layers().size() - 1; }, "The number of diffs.");
    py::classh<ZeroSource, PageSource>(module, "ZeroSource", "Zeros that are never read.")
        .def(py::init<std::uint64_t>(), py::arg("size"),
             "`size` bytes of zeros from offset 0 on. Raises VmthawValueError for 0.");
    register_python_source(module);
    register_socket_source(module);
    register_layered_header(module);
    register_layered_source(module);
    register_compressed_source(module);
    register_cached_source(module);
}

}  // namespace vmthaw::bindings
