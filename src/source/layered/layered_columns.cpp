#include "source/layered/layered_columns.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::size_t kUuidBytes = 16;
constexpr std::size_t kColumns = 4;
constexpr std::uint64_t kMostUnits = UINT32_MAX;

std::uint64_t take_number(ByteCursor& cursor, std::size_t index, const char* member) {
    std::uint64_t value = 0;
    if (!cursor.take_leb128(value)) {
        fail_layered_header(layered_field("mappings", index, member),
                            cursor.left() == 0 ? "the section ends before it" : "it is cut, or beyond 32 bits");
    }
    return value;
}

void check_number(std::uint64_t value, std::size_t index, const char* member) {
    if (value > kMostUnits) {
        fail_layered_header(layered_field("mappings", index, member),
                            "it comes to " + std::to_string(value) + " units of 4096 bytes, beyond 32 bits");
    }
}

// The four columns, in units; the storage delta undone.
std::vector<LayeredMapping> take_numbers(ByteCursor& cursor, std::size_t count) {
    std::vector<LayeredMapping> mappings(count);
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < count; ++i) {
        offset += take_number(cursor, i, "offset");
        check_number(offset, i, "offset");
        mappings[i].offset = offset;
    }
    for (std::size_t i = 0; i < count; ++i) {
        mappings[i].length = take_number(cursor, i, "length");
        check_number(mappings[i].length, i, "length");
    }
    std::uint64_t storage = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t zigzag = take_number(cursor, i, "storage");
        storage += (zigzag >> 1U) ^ (0 - (zigzag & 1U));  // below 0 it wraps, and is beyond 32 bits
        check_number(storage, i, "storage");
        mappings[i].storage = storage;
    }
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t build = take_number(cursor, i, "build");
        check_number(build, i, "build");
        mappings[i].build = static_cast<std::uint32_t>(build);
    }
    return mappings;
}

void put_leb128(std::vector<std::byte>& out, std::uint64_t value) {
    for (; value >= 0x80U; value >>= 7U) {
        out.push_back(static_cast<std::byte>(value | 0x80U));
    }
    out.push_back(static_cast<std::byte>(value));
}

// The units that a mapping starts at or is long.
std::uint64_t units(std::uint64_t bytes, std::size_t index, const char* member) {
    if (bytes % kLayeredUnit != 0 || bytes / kLayeredUnit > kMostUnits) {
        fail_layered_header(layered_field("mappings", index, member),
                            hex(bytes) + " is no multiple of 4096 that version 5 can write (32 bits of them)");
    }
    return bytes / kLayeredUnit;
}

}  // namespace

void take_columns(ByteCursor& cursor, LayeredHeader& header) {
    std::uint32_t uuid_count = 0;
    if (!cursor.take(uuid_count) || uuid_count > cursor.left() / kUuidBytes) {
        fail_layered_header("UUIDs", "there are said to be " + std::to_string(uuid_count) + "; " +
                                         std::to_string(cursor.left()) + " bytes are left");
    }
    header.uuids.resize(uuid_count);
    for (Uuid& uuid : header.uuids) {
        (void)cursor.take(uuid);
    }
    std::uint32_t count = 0;
    if (!cursor.take(count) || count > kMostLayeredMappings || count > cursor.left() / kColumns) {
        fail_layered_header("mappings", "there are said to be " + std::to_string(count) + "; " +
                                            std::to_string(cursor.left()) + " bytes are left, and 8 Mi are the most");
    }
    const std::vector<LayeredMapping> read = take_numbers(cursor, count);
    if (cursor.left() != 0) {
        fail_layered_header("mappings", std::to_string(cursor.left()) + " bytes follow the last column");
    }
    const std::uint64_t limit = round_up(header.size, kLayeredUnit) / kLayeredUnit;
    const auto nil_at = std::find(header.uuids.begin(), header.uuids.end(), Uuid{}) - header.uuids.begin();
    const auto nil = static_cast<std::uint32_t>(nil_at);
    const auto add_nil = [&](std::uint64_t begin, std::uint64_t end) {
        if (begin < end) {
            header.mappings.push_back({begin * kLayeredUnit, (end - begin) * kLayeredUnit, 0, nil});
        }
    };
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < read.size(); ++i) {
        const LayeredMapping& one = read[i];
        if (one.offset < end) {
            fail_layered_header(layered_field("mappings", i, "offset"),
                                "it is unit " + std::to_string(one.offset) + ", before the end of the one before it");
        }
        if (one.length == 0 || one.offset > limit || one.length > limit - one.offset) {
            fail_layered_header(layered_field("mappings", i, "length"),
                                "it is " + std::to_string(one.length) + " units at unit " + std::to_string(one.offset) +
                                    " of " + std::to_string(limit));
        }
        if (one.build >= uuid_count) {
            fail_layered_header(layered_field("mappings", i, "build"),
                                std::to_string(one.build) + " is none of the " + std::to_string(uuid_count) + " UUIDs");
        }
        add_nil(end, one.offset);
        end = one.offset + one.length;
        header.mappings.push_back(
            {one.offset * kLayeredUnit, one.length * kLayeredUnit, one.storage * kLayeredUnit, one.build});
    }
    add_nil(end, limit);
    if (nil == uuid_count) {
        header.uuids.emplace_back();
    }
}

void put_columns(const LayeredHeader& header, ByteWriter& out) {
    std::vector<std::uint32_t> numbers(header.uuids.size(), 0);
    std::vector<Uuid> uuids;
    std::array<std::vector<std::byte>, kColumns> columns;
    std::uint32_t count = 0;
    std::uint64_t offset_before = 0;
    std::uint64_t storage_before = 0;
    for (std::size_t i = 0; i < header.mappings.size(); ++i) {
        const LayeredMapping& mapping = header.mappings[i];
        const Uuid& uuid = header.uuids[mapping.build];
        if (uuid.is_nil()) {
            continue;
        }
        const std::uint64_t offset = units(mapping.offset, i, "offset");
        const std::uint64_t storage = units(mapping.storage, i, "storage");
        std::uint32_t& number = numbers[mapping.build];
        if (number == 0) {
            uuids.push_back(uuid);
            number = static_cast<std::uint32_t>(uuids.size());
        }
        put_leb128(columns[0], offset - offset_before);
        put_leb128(columns[1], units(round_up(mapping.length, kLayeredUnit), i, "length"));
        put_leb128(columns[2], storage >= storage_before ? (storage - storage_before) << 1U
                                                         : ((storage_before - storage) << 1U) - 1);
        put_leb128(columns[3], number - 1);
        offset_before = offset;
        storage_before = storage;
        ++count;
    }
    if (count > kMostLayeredMappings) {
        fail_layered_header("mappings", "there are " + std::to_string(count) + "; version 5 has 8 Mi at most");
    }
    out.put(static_cast<std::uint32_t>(uuids.size()));
    for (const Uuid& uuid : uuids) {
        out.put(uuid);
    }
    out.put(count);
    for (const std::vector<std::byte>& column : columns) {
        out.append(column);
    }
}

}  // namespace vmthaw
