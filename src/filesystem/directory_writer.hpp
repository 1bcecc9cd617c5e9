#pragma once

#include <cstdint>
#include <string_view>

#include "filesystem/file_system_values.hpp"

namespace vmthaw {

// Takes the entries of one readdir. false: it did not fit and was not sent; end the call with 0, and do not count a
// look-up for it. Names have 1 to 255 bytes: leave out what has not. `next_offset` is what a later call passes to go on
// behind this entry; never 0.
class DirectoryWriter {
public:
    DirectoryWriter() = default;
    DirectoryWriter(const DirectoryWriter&) = delete;
    DirectoryWriter& operator=(const DirectoryWriter&) = delete;
    virtual ~DirectoryWriter() = default;

    // `type` as in dirent.h (DT_REG, ...).
    [[nodiscard]] virtual bool add(std::string_view name, std::uint64_t ino, std::uint32_t type,
                                   std::uint64_t next_offset) noexcept = 0;
    // readdirplus. An entry whose node is 0 ("." and "..", always) tells name and type alone and counts no look-up.
    [[nodiscard]] virtual bool add_entry(std::string_view name, const NodeEntry& entry,
                                         std::uint64_t next_offset) noexcept = 0;
};

}  // namespace vmthaw
