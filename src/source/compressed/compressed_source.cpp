#include "source/compressed/compressed_source.hpp"

#include <utility>

#include "base/error.hpp"

namespace vmthaw {

CompressedSource::CompressedSource(BackingFile file, std::uint64_t cache_bytes)
    : ChunkedSource(read_chunk_index(file), cache_bytes), file_(std::move(file)) {}

ReadResult CompressedSource::fetch(std::size_t chunk, std::vector<std::byte>& packed) {
    packed.resize(index()[chunk].packed_bytes);
    const ReadResult result = file_.read_at(index()[chunk].position, packed);
    // Looked at after the read, which may have seen the zeros that a cut leaves in its page.
    const ReadResult whole = file_.still_whole();
    return whole.ok() ? result : whole;
}

std::string CompressedSource::remedy(const ReadResult& result) const {
    const std::string of_file = file_.remedy(result);
    return of_file.empty() ? ChunkedSource::remedy(result) : of_file;
}

std::string CompressedSource::place_of(std::size_t chunk) const {
    return std::to_string(index()[chunk].packed_bytes) + " bytes at " + hex(index()[chunk].position) + " of the file";
}

std::string CompressedSource::way_out() const { return "take another copy of the file, or compress the memory anew"; }

}  // namespace vmthaw
