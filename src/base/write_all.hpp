#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vmthaw {

// Writes all `size` bytes at `offset` of the file, however many calls that takes. Throws SystemError, which names
// `path`.
void write_all(int fd, const std::byte* data, std::uint64_t size, std::uint64_t offset, const std::string& path);

}  // namespace vmthaw
