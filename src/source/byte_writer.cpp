#include "source/byte_writer.hpp"

#include <algorithm>
#include <iterator>

namespace vmthaw {

void ByteWriter::append(std::span<const std::byte> bytes) {
    std::copy(bytes.begin(), bytes.end(), std::back_inserter(bytes_));
}

}  // namespace vmthaw
