#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace vmthaw {

// Who a snapshot is: random bytes, made when it was saved, and a checksum over the checksums in its state file.
struct SnapshotIdentity {
    std::array<std::byte, 16> id{};
    std::uint64_t checksum = 0;
    bool operator==(const SnapshotIdentity&) const = default;
    [[nodiscard]] std::string text() const;  // of the id, 32 hexadecimal digits
};

// The snapshot that a machine was saved as last, or restored from: what the next diff lies over.
struct SnapshotBase {
    SnapshotIdentity identity;
    std::uint64_t depth = 0;
    std::string directory;  // absolute
};

}  // namespace vmthaw
