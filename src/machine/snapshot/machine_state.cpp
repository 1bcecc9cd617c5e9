#include "machine/snapshot/machine_state.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"
#include "machine/payload/mailbox.hpp"

namespace vmthaw {
namespace {

static_assert(std::endian::native == std::endian::little, "state files are little endian");

constexpr std::array<char, 8> kMagic{'V', 'M', 'T', 'H', 'A', 'W', 'S', 'T'};
constexpr std::uint32_t kArchX86 = 1;
constexpr std::uint64_t kHeaderBytes = 40;
constexpr std::uint64_t kSectionHeaderBytes = 16;
constexpr std::uint64_t kChecksumBytes = 8;

constexpr std::uint32_t kMemory = 1;
constexpr std::uint32_t kGuest = 2;
constexpr std::uint32_t kWorkload = 3;
constexpr std::uint32_t kFirstPart = 16;

struct MemorySection {
    std::uint64_t size_bytes, data_pages, fingerprint;
};
struct GuestSection {
    std::uint64_t busy, sequence;
};

constexpr std::uint64_t kPolynomial = 0xC96C5795D7870F42ULL;
constexpr auto kCrcTable = [] {
    std::array<std::uint64_t, 256> table{};
    for (std::uint64_t i = 0; i < table.size(); ++i) {
        std::uint64_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1U) ^ ((value & 1U) != 0 ? kPolynomial : 0);
        }
        table[i] = value;
    }
    return table;
}();

[[noreturn]] void refuse(const std::string& field, const std::string& why) {
    throw Error("the state file cannot be restored: " + field + " " + why, "SnapshotError", {{"field", field}});
}

class Writer {
public:
    template <typename Value>
    void put(const Value& value) {
        put_bytes(std::as_bytes(std::span(&value, 1)));
    }
    void put_bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    // The checksum of everything from `start` on.
    void seal(std::size_t start) { put(crc64(std::span(bytes_).subspan(start))); }
    void section(std::uint32_t kind, std::uint32_t index, std::span<const std::byte> content) {
        const std::size_t start = bytes_.size();
        put(kind);
        put(index);
        put(std::uint64_t{content.size()});
        put_bytes(content);
        seal(start);
        ++sections_;
    }
    template <typename Value>
    void section_of(std::uint32_t kind, const Value& value) {
        section(kind, 0, std::as_bytes(std::span(&value, 1)));
    }
    [[nodiscard]] std::uint32_t sections() const noexcept { return sections_; }
    [[nodiscard]] std::vector<std::byte>& bytes() noexcept { return bytes_; }

private:
    std::vector<std::byte> bytes_;
    std::uint32_t sections_ = 0;
};

template <typename Value>
Value value_at(std::span<const std::byte> bytes, std::size_t offset) {
    Value value{};
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

struct Section {
    std::uint32_t kind = 0;
    std::uint32_t index = 0;
    std::span<const std::byte> content;
    std::string name;
};

std::string section_name(std::uint32_t kind, std::uint32_t index) {
    switch (kind) {
        case kMemory:
            return "memory";
        case kGuest:
            return "guest";
        case kWorkload:
            return "workload";
        default:
            break;
    }
    if (kind >= kFirstPart && kind - kFirstPart < kVcpuParts) {
        return "vcpu " + std::to_string(index) + " " + vcpu_part_name(static_cast<VcpuPart>(kind - kFirstPart));
    }
    return "section of kind " + std::to_string(kind);
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
    Section section{value_at<std::uint32_t>(rest, 0), value_at<std::uint32_t>(rest, 4), {}, {}};
    section.name = section_name(section.kind, section.index);
    const auto size = value_at<std::uint64_t>(rest, 8);
    if (size > rest.size() - kSectionHeaderBytes - kChecksumBytes) {
        refuse(section.name, "claims " + std::to_string(size) + " bytes, more than the file has");
    }
    section.content = rest.subspan(kSectionHeaderBytes, size);
    const std::size_t sealed = kSectionHeaderBytes + size;
    if (value_at<std::uint64_t>(rest, sealed) != crc64(rest.first(sealed))) {
        refuse(section.name, "does not match its checksum: it is damaged");
    }
    rest = rest.subspan(sealed + kChecksumBytes);
    return section;
}

template <typename Value>
Value whole(const Section& section) {
    if (section.content.size() != sizeof(Value)) {
        refuse(section.name,
               "has " + std::to_string(section.content.size()) + " bytes instead of " + std::to_string(sizeof(Value)));
    }
    return value_at<Value>(section.content, 0);
}

void take_memory(MachineState& state, const Section& section) {
    const auto memory = whole<MemorySection>(section);
    try {
        (void)GuestMemory::layout(memory.size_bytes, GuestArch::x86_64);
    } catch (const ArgumentError& error) {
        refuse(section.name, error.what());
    }
    if (memory.data_pages > memory.size_bytes / payload::kPageBytes) {
        refuse(section.name, "has more pages with data than pages");
    }
    state.memory_bytes = memory.size_bytes;
    state.memory_data_pages = memory.data_pages;
    state.memory_fingerprint = memory.fingerprint;
}

void take_guest(MachineState& state, const Section& section) {
    const auto guest = whole<GuestSection>(section);
    if (guest.busy > 1) {
        refuse(section.name, "is neither busy nor idle");
    }
    state.busy = guest.busy == 1;
    state.sequence = guest.sequence;
}

void take_part(MachineState& state, const Section& section) {
    const auto part = static_cast<VcpuPart>(section.kind - kFirstPart);
    if (section.index >= payload::kMostVcpus) {
        refuse(section.name, "belongs to a vCPU beyond " + std::to_string(payload::kMostVcpus));
    }
    if (!is_vcpu_part_size(part, section.content.size())) {
        refuse(section.name, "cannot have " + std::to_string(section.content.size()) + " bytes");
    }
    if (state.vcpus.size() <= section.index) {
        state.vcpus.resize(section.index + 1);
    }
    state.vcpus[section.index].part(part).assign(section.content.begin(), section.content.end());
}

}  // namespace

std::uint64_t crc64(std::span<const std::byte> bytes) noexcept {
    std::uint64_t crc = ~std::uint64_t{0};
    for (const std::byte byte : bytes) {
        crc = (crc >> 8U) ^ kCrcTable[(crc ^ std::to_integer<std::uint64_t>(byte)) & 0xFFU];
    }
    return ~crc;
}

std::vector<std::byte> encode_state(const MachineState& state) {
    Writer writer;
    writer.bytes().resize(kHeaderBytes);
    writer.section_of(kMemory, MemorySection{state.memory_bytes, state.memory_data_pages, state.memory_fingerprint});
    writer.section_of(kGuest, GuestSection{state.busy ? 1U : 0U, state.sequence});
    writer.section_of(kWorkload, state.workload);
    for (std::uint32_t index = 0; index < state.vcpus.size(); ++index) {
        for (std::uint32_t part = 0; part < kVcpuParts; ++part) {
            writer.section(kFirstPart + part, index, state.vcpus[index].parts[part]);
        }
    }
    Writer header;
    header.put(kMagic);
    header.put(kStateVersion);
    header.put(kArchX86);
    header.put(std::uint64_t{writer.bytes().size()});
    header.put(writer.sections());
    header.put(std::uint32_t{0});
    header.seal(0);
    std::memcpy(writer.bytes().data(), header.bytes().data(), kHeaderBytes);
    return std::move(writer.bytes());
}

MachineState decode_state(std::span<const std::byte> bytes) {
    const std::uint32_t sections = check_header(bytes);
    std::span<const std::byte> rest = bytes.subspan(kHeaderBytes);
    MachineState state;
    std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
    for (std::uint32_t number = 0; number < sections; ++number) {
        const Section section = take_section(rest, number);
        if (!seen.emplace(section.kind, section.index).second) {
            refuse(section.name, "comes twice");
        }
        if (section.kind < kFirstPart && section.index != 0) {
            refuse(section.name, "has an index, though there is only one");
        }
        if (section.kind == kMemory) {
            take_memory(state, section);
        } else if (section.kind == kGuest) {
            take_guest(state, section);
        } else if (section.kind == kWorkload) {
            state.workload = whole<payload::Workload>(section);
            if (state.workload.rewrite_count > payload::kMostRewrites) {
                refuse(section.name, "has too many rewritings");
            }
        } else if (section.kind >= kFirstPart && section.kind - kFirstPart < kVcpuParts) {
            take_part(state, section);
        } else {
            refuse(section.name, "is unknown");
        }
    }
    if (!rest.empty()) {
        refuse("end", "has " + std::to_string(rest.size()) + " bytes behind the last section");
    }
    for (const std::uint32_t kind : {kMemory, kGuest, kWorkload}) {
        if (!seen.contains({kind, 0})) {
            refuse(section_name(kind, 0), "is missing");
        }
    }
    if (state.vcpus.empty()) {
        refuse("vcpu 0", "is missing");
    }
    for (std::uint32_t index = 0; index < state.vcpus.size(); ++index) {
        for (std::uint32_t part = 0; part < kVcpuParts; ++part) {
            if (!seen.contains({kFirstPart + part, index})) {
                refuse(section_name(kFirstPart + part, index), "is missing");
            }
        }
    }
    return state;
}

}  // namespace vmthaw
