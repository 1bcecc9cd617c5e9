#include "machine/snapshot/state_sections.hpp"

#include <bit>
#include <utility>

#include "base/error.hpp"
#include "machine/snapshot/crc64.hpp"
#include "machine/snapshot/machine_state.hpp"

namespace vmthaw::state_file {
namespace {

static_assert(std::endian::native == std::endian::little, "state files are little endian");

template <typename Value>
void put(std::vector<std::byte>& bytes, const Value& value) {
    const auto raw = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
}

}  // namespace

std::string section_name(std::uint32_t kind, std::uint32_t index) {
    static constexpr std::array<const char*, 7> kNames{"",         "memory", "guest",        "workload",
                                                       "identity", "base",   "changed pages"};
    if (kind > 0 && kind < kNames.size()) {
        return kNames[kind];
    }
    if (kind >= kFirstVmPart && kind - kFirstVmPart < kVmParts) {
        return std::string("vm ") + vm_part_name(static_cast<VmPart>(kind - kFirstVmPart));
    }
    if (kind >= kFirstVcpuPart && kind - kFirstVcpuPart < kVcpuParts) {
        return "vcpu " + std::to_string(index) + " " + vcpu_part_name(static_cast<VcpuPart>(kind - kFirstVcpuPart));
    }
    return "section of kind " + std::to_string(kind);
}

void refuse(const std::string& field, const std::string& why) {
    throw Error("the state file cannot be restored: " + field + " " + why, "SnapshotError", {{"field", field}});
}

std::uint32_t check_header(std::span<const std::byte> bytes) {
    if (bytes.size() < kHeaderBytes) {
        refuse("header", "is cut short: the file has " + std::to_string(bytes.size()) + " bytes");
    }
    if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
        refuse("magic", "is not that of a vmthaw state file");
    }
    if (const auto version = value_at<std::uint32_t>(bytes, 8); version != kStateVersion) {
        refuse("version", "is " + std::to_string(version) + "; this vmthaw reads " + std::to_string(kStateVersion));
    }
    if (const auto arch = value_at<std::uint32_t>(bytes, 12); arch != kArchX86) {
        refuse("architecture", "is " + std::to_string(arch) + ", not x86-64 (1)");
    }
    if (const auto size = value_at<std::uint64_t>(bytes, 16); size != bytes.size()) {
        refuse("file size",
               "is " + std::to_string(size) + " by its header and " + std::to_string(bytes.size()) + " in truth");
    }
    if (value_at<std::uint32_t>(bytes, 28) != 0) {
        refuse("reserved", "is not 0");
    }
    if (value_at<std::uint64_t>(bytes, 32) != crc64(bytes.first(kHeaderBytes - kChecksumBytes))) {
        refuse("header checksum", "is wrong: the header is damaged");
    }
    return value_at<std::uint32_t>(bytes, 24);
}

Section take_section(std::span<const std::byte>& rest, std::uint32_t number) {
    const std::string here = "section " + std::to_string(number);
    if (rest.size() < kSectionHeaderBytes + kChecksumBytes) {
        refuse(here, "is cut short");
    }
    Section section{value_at<std::uint32_t>(rest, 0), value_at<std::uint32_t>(rest, 4), {}, {}, 0};
    section.name = section_name(section.kind, section.index);
    const auto size = value_at<std::uint64_t>(rest, 8);
    if (size > rest.size() - kSectionHeaderBytes - kChecksumBytes) {
        refuse(section.name, "claims " + std::to_string(size) + " bytes, more than the file has");
    }
    section.content = rest.subspan(kSectionHeaderBytes, size);
    const std::size_t sealed = kSectionHeaderBytes + size;
    section.checksum = crc64(rest.first(sealed));
    if (value_at<std::uint64_t>(rest, sealed) != section.checksum) {
        refuse(section.name, "does not match its checksum: it is damaged");
    }
    rest = rest.subspan(sealed + kChecksumBytes);
    return section;
}

void Writer::section(std::uint32_t kind, std::uint32_t index, std::span<const std::byte> content) {
    const std::size_t start = bytes_.size();
    put(bytes_, kind);
    put(bytes_, index);
    put(bytes_, std::uint64_t{content.size()});
    bytes_.insert(bytes_.end(), content.begin(), content.end());
    checksums_.push_back(crc64(std::span(bytes_).subspan(start)));
    put(bytes_, checksums_.back());
}

std::vector<std::byte> Writer::finish() {
    std::vector<std::byte> header;
    put(header, kMagic);
    put(header, kStateVersion);
    put(header, kArchX86);
    put(header, std::uint64_t{bytes_.size()});
    put(header, static_cast<std::uint32_t>(checksums_.size()));
    put(header, std::uint32_t{0});
    put(header, crc64(header));
    std::memcpy(bytes_.data(), header.data(), kHeaderBytes);
    return std::move(bytes_);
}

}  // namespace vmthaw::state_file
