#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "source/compressed/lz4_frame.hpp"
#include "source/layered/layered_header.hpp"
#include "source/layered/layered_header_reader.hpp"
#include "source/layered/layered_header_writer.hpp"

// Headers of layered memory: as they come, and with what follows the fixed part put into an LZ4 frame whose sizes and
// checksums are right, or no mutant would get past them. There is an error that names a field, or a header whose
// promises hold and which survives being written again, in every version that can say it.
namespace {

using Bytes = std::vector<std::byte>;

template <typename Call>
bool succeeds(const Call& call) {
    try {
        call();
        return true;
    } catch (const vmthaw::Error& error) {
        FUZZ_CHECK(error.class_name() == "LayeredHeaderError");
        FUZZ_CHECK(error.fields().size() == 1 && error.fields().front().first == "field");
        FUZZ_CHECK(!std::get<std::string>(error.fields().front().second).empty());
        return false;
    }
}

// The build and the place in it of one byte; nothing for zeros.
using Place = std::optional<std::pair<vmthaw::Uuid, std::uint64_t>>;
Place place_of(const vmthaw::LayeredHeader& header, std::uint64_t offset) {
    for (const vmthaw::LayeredMapping& mapping : header.mappings) {
        if (offset - mapping.offset < mapping.length) {
            const vmthaw::Uuid& uuid = header.uuids.at(mapping.build);
            return uuid.is_nil() ? Place{} : Place{{uuid, mapping.storage + (offset - mapping.offset)}};
        }
    }
    FUZZ_CHECK(false);
    return {};
}

void check(const Bytes& bytes) {
    vmthaw::LayeredHeader header;
    if (!succeeds([&] { header = vmthaw::read_layered_header(bytes); })) {
        return;
    }
    std::uint64_t end = 0;
    for (const vmthaw::LayeredMapping& mapping : header.mappings) {
        FUZZ_CHECK(mapping.offset == end && mapping.length > 0 && mapping.build < header.uuids.size());
        end += mapping.length;
    }
    FUZZ_CHECK(end >= header.size && header.size > 0);
    for (const vmthaw::LayeredBuild& build : header.builds) {
        FUZZ_CHECK(header.find_build(build.uuid) == &build);
    }
    for (std::uint16_t version = 1; version <= 5; ++version) {
        Bytes written;
        vmthaw::LayeredHeader again;
        if (!succeeds([&] { written = vmthaw::write_layered_header(header, version); })) {
            FUZZ_CHECK(version != header.version);
            continue;
        }
        FUZZ_CHECK(succeeds([&] { again = vmthaw::read_layered_header(written); }));
        FUZZ_CHECK(again.version == version && again.size == header.size && again.build == header.build);
        FUZZ_CHECK(version < 4 || again.builds == header.builds);
        FUZZ_CHECK(vmthaw::write_layered_header(again, version) == written);
        for (const std::uint64_t offset : {std::uint64_t{0}, header.size / 3, header.size / 2, header.size - 1}) {
            FUZZ_CHECK(place_of(again, offset) == place_of(header, offset));
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto given = std::as_bytes(std::span(data, size));
    check(Bytes(given.begin(), given.end()));
    if (size >= vmthaw::kLayeredFixedBytes) {
        Bytes sealed(given.begin(), given.begin() + vmthaw::kLayeredFixedBytes);
        const auto payload = given.subspan(vmthaw::kLayeredFixedBytes);
        const auto payload_size = static_cast<std::uint32_t>(payload.size());
        sealed.resize(sealed.size() + 1 + sizeof payload_size);
        std::memcpy(sealed.data() + vmthaw::kLayeredFixedBytes + 1, &payload_size, sizeof payload_size);
        const Bytes frame = vmthaw::lz4_compress(payload);
        std::copy(frame.begin(), frame.end(), std::back_inserter(sealed));
        check(sealed);
    }
    return 0;
}
