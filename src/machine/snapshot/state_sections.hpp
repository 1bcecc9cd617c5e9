#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "machine/vcpu_state.hpp"
#include "machine/vm_state.hpp"

// The frame of a state file, described in machine_state.hpp: what its writer and its reader share.
namespace vmthaw::state_file {

inline constexpr std::array<char, 8> kMagic{'V', 'M', 'T', 'H', 'A', 'W', 'S', 'T'};
inline constexpr std::uint32_t kArchX86 = 1;
inline constexpr std::uint64_t kHeaderBytes = 40;
inline constexpr std::uint64_t kSectionHeaderBytes = 16;
inline constexpr std::uint64_t kChecksumBytes = 8;

inline constexpr std::uint32_t kMemory = 1;
inline constexpr std::uint32_t kGuest = 2;
inline constexpr std::uint32_t kWorkload = 3;
inline constexpr std::uint32_t kIdentity = 4;
inline constexpr std::uint32_t kBase = 5;
inline constexpr std::uint32_t kChangedPages = 6;
inline constexpr std::uint32_t kFirstVmPart = 16;
inline constexpr std::uint32_t kFirstVcpuPart = 32;

struct MemorySection {
    std::uint64_t size_bytes, data_pages, fingerprint;
};
struct GuestSection {
    std::uint64_t busy, sequence, has_payload;
};
struct IdentitySection {
    std::array<std::byte, 16> id;
};
// The path's bytes follow.
struct BaseSection {
    std::uint64_t depth;
    std::array<std::byte, 16> id;
    std::uint64_t checksum;
};

[[nodiscard]] std::string section_name(std::uint32_t kind, std::uint32_t index);

// Throws Error(SnapshotError) with the field.
[[noreturn]] void refuse(const std::string& field, const std::string& why);

template <typename Value>
Value value_at(std::span<const std::byte> bytes, std::size_t offset) {
    Value value{};
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

// One section whose checksum is right.
struct Section {
    std::uint32_t kind = 0;
    std::uint32_t index = 0;
    std::span<const std::byte> content;
    std::string name;
    std::uint64_t checksum = 0;
};

// Of any bytes: the number of sections, when the header is right.
[[nodiscard]] std::uint32_t check_header(std::span<const std::byte> bytes);
// The next section, which is cut off `rest`; `number` is for messages.
[[nodiscard]] Section take_section(std::span<const std::byte>& rest, std::uint32_t number);

class Writer {
public:
    Writer() : bytes_(kHeaderBytes) {}
    void section(std::uint32_t kind, std::uint32_t index, std::span<const std::byte> content);
    template <typename Value>
    void section_of(std::uint32_t kind, const Value& value) {
        section(kind, 0, std::as_bytes(std::span(&value, 1)));
    }
    // The whole file, header and all. Once.
    [[nodiscard]] std::vector<std::byte> finish();
    // Of each section, in order.
    [[nodiscard]] const std::vector<std::uint64_t>& checksums() const noexcept { return checksums_; }

private:
    std::vector<std::byte> bytes_;
    std::vector<std::uint64_t> checksums_;
};

}  // namespace vmthaw::state_file
