#pragma once

#include "source/byte_cursor.hpp"
#include "source/byte_writer.hpp"
#include "source/layered/layered_header.hpp"

namespace vmthaw {

// The mapping section of version 5: a table of UUIDs and four columns of LEB128 numbers, in units of 4096 bytes.
// Both throw Error(LayeredHeaderError).

// Takes the rest of `cursor`: `uuids` and `mappings` of the header, gaps filled with nil.
void take_columns(ByteCursor& cursor, LayeredHeader& header);
// Of a header that is checked. Mappings that are no multiples of 4096, or beyond 2^32 of them, are refused.
void put_columns(const LayeredHeader& header, ByteWriter& out);

}  // namespace vmthaw
