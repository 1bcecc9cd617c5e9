#include "machine/snapshot/machine_state.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "machine/guest_memory.hpp"
#include "machine/payload/mailbox.hpp"
#include "machine/snapshot/crc64.hpp"
#include "machine/snapshot/state_sections.hpp"

namespace vmthaw {
namespace {

using namespace state_file;

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
    if (guest.busy > 1 || guest.has_payload > 1 || guest.busy > guest.has_payload) {
        refuse(section.name, "is neither busy with a payload nor idle");
    }
    state.has_payload = guest.has_payload == 1;
    state.busy = guest.busy == 1;
    state.sequence = guest.sequence;
}

void take_workload(MachineState& state, const Section& section) {
    state.workload = whole<payload::Workload>(section);
    if (state.workload.rewrite_count > payload::kMostRewrites) {
        refuse(section.name, "has too many rewritings");
    }
}

void take_base(MachineState& state, const Section& section) {
    if (section.content.size() < sizeof(BaseSection)) {
        refuse(section.name, "is cut short");
    }
    const auto base = value_at<BaseSection>(section.content, 0);
    const std::span<const std::byte> path = section.content.subspan(sizeof base);
    if (base.depth == 0 || base.depth > kMostDepth) {
        refuse(section.name, "is " + std::to_string(base.depth) + " snapshots deep; 1 to " +
                                 std::to_string(kMostDepth) + " are possible");
    }
    if (path.empty() || path.size() > kMostBasePath ||
        std::find(path.begin(), path.end(), std::byte{0}) != path.end()) {
        refuse(section.name, "has no path");
    }
    state.depth = base.depth;
    state.base = {base.id, base.checksum};
    state.base_path.assign(reinterpret_cast<const char*>(path.data()), path.size());
}

void take_changed_pages(MachineState& state, const Section& section) {
    if (section.content.size() % sizeof(std::uint64_t) != 0) {
        refuse(section.name, "cannot have " + std::to_string(section.content.size()) + " bytes");
    }
    state.changed_pages.resize(section.content.size() / sizeof(std::uint64_t));
    if (!state.changed_pages.empty()) {
        std::memcpy(state.changed_pages.data(), section.content.data(), section.content.size());
    }
}

void take_vm_part(MachineState& state, const Section& section) {
    const auto part = static_cast<VmPart>(section.kind - kFirstVmPart);
    if (!is_vm_part_size(part, section.content.size())) {
        refuse(section.name, "cannot have " + std::to_string(section.content.size()) + " bytes");
    }
    state.vm.part(part).assign(section.content.begin(), section.content.end());
}

void take_vcpu_part(MachineState& state, const Section& section) {
    const auto part = static_cast<VcpuPart>(section.kind - kFirstVcpuPart);
    if (section.index >= kMostStateVcpus) {
        refuse(section.name, "belongs to a vCPU beyond " + std::to_string(kMostStateVcpus));
    }
    if (!is_vcpu_part_size(part, section.content.size())) {
        refuse(section.name, "cannot have " + std::to_string(section.content.size()) + " bytes");
    }
    if (state.vcpus.size() <= section.index) {
        state.vcpus.resize(section.index + 1);
    }
    state.vcpus[section.index].part(part).assign(section.content.begin(), section.content.end());
}

void take(MachineState& state, const Section& section) {
    if (section.kind >= kFirstVcpuPart && section.kind - kFirstVcpuPart < kVcpuParts) {
        return take_vcpu_part(state, section);
    }
    if (section.index != 0) {
        refuse(section.name, "has an index, though there is only one");
    }
    if (section.kind >= kFirstVmPart && section.kind - kFirstVmPart < kVmParts) {
        return take_vm_part(state, section);
    }
    switch (section.kind) {
        case kMemory:
            return take_memory(state, section);
        case kGuest:
            return take_guest(state, section);
        case kWorkload:
            return take_workload(state, section);
        case kIdentity:
            state.identity.id = whole<IdentitySection>(section).id;
            return;
        case kBase:
            return take_base(state, section);
        case kChangedPages:
            return take_changed_pages(state, section);
        default:
            refuse(section.name, "is unknown");
    }
}

using Seen = std::set<std::pair<std::uint32_t, std::uint32_t>>;

void check_complete(const MachineState& state, const Seen& seen) {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> needed{
        {kMemory, 0}, {kGuest, 0}, {kWorkload, 0}, {kIdentity, 0}};
    if (seen.contains({kBase, 0}) || seen.contains({kChangedPages, 0})) {
        needed.insert(needed.end(), {{kBase, 0}, {kChangedPages, 0}});
    }
    for (std::uint32_t part = 0; part < kVmParts; ++part) {
        needed.emplace_back(kFirstVmPart + part, 0);
    }
    for (std::uint32_t index = 0; index < state.vcpus.size(); ++index) {
        for (std::uint32_t part = 0; part < kVcpuParts; ++part) {
            needed.emplace_back(kFirstVcpuPart + part, index);
        }
    }
    for (const auto& [kind, index] : needed) {
        if (!seen.contains({kind, index})) {
            refuse(section_name(kind, index), "is missing");
        }
    }
    if (state.vcpus.empty()) {
        refuse("vcpu 0", "is missing");
    }
}

// What no section knows alone.
void check_together(const MachineState& state) {
    const std::uint64_t pages = state.memory_bytes / payload::kPageBytes;
    if (state.is_diff()) {
        if (state.changed_pages.size() != words_for_pages(pages) ||
            (pages % 64 != 0 && (state.changed_pages.back() >> (pages % 64)) != 0)) {
            refuse("changed pages", "are not those of a memory of " + std::to_string(pages) + " pages");
        }
        if (count_pages(state.changed_pages) != state.memory_data_pages) {
            refuse("changed pages", "are " + std::to_string(count_pages(state.changed_pages)) + "; the memory has " +
                                        std::to_string(state.memory_data_pages));
        }
    }
    const bool irqchip = state.vm.has_irqchip();
    for (const VmPart part : {VmPart::pic_slave, VmPart::ioapic, VmPart::pit}) {
        if (state.vm.part(part).empty() == irqchip) {
            refuse(std::string("vm ") + vm_part_name(part),
                   irqchip ? "is empty, though there is an interrupt controller" : "is there without the others");
        }
    }
    for (std::size_t index = 0; index < state.vcpus.size(); ++index) {
        if (state.vcpus[index].part(VcpuPart::lapic).empty() == irqchip) {
            refuse("vcpu " + std::to_string(index) + " lapic",
                   irqchip ? "is empty, though there is an interrupt controller" : "is there without the others");
        }
    }
}

// Not that of the whole file: a CRC over bytes that are followed by their own CRC is the same for all bytes.
std::uint64_t checksum_of(const std::vector<std::uint64_t>& checksums) noexcept {
    return crc64(std::as_bytes(std::span(checksums)));
}

}  // namespace

std::string SnapshotIdentity::text() const {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : id) {
        text += kDigits[std::to_integer<unsigned>(byte) >> 4U];
        text += kDigits[std::to_integer<unsigned>(byte) & 15U];
    }
    return text;
}

EncodedState encode_state(const MachineState& state) {
    Writer writer;
    writer.section_of(kMemory, MemorySection{state.memory_bytes, state.memory_data_pages, state.memory_fingerprint});
    writer.section_of(kGuest, GuestSection{state.busy ? 1U : 0U, state.sequence, state.has_payload ? 1U : 0U});
    writer.section_of(kWorkload, state.workload);
    writer.section_of(kIdentity, IdentitySection{state.identity.id});
    if (state.is_diff()) {
        const BaseSection base{state.depth, state.base.id, state.base.checksum};
        std::vector<std::byte> content(sizeof base + state.base_path.size());
        std::memcpy(content.data(), &base, sizeof base);
        std::memcpy(content.data() + sizeof base, state.base_path.data(), state.base_path.size());
        writer.section(kBase, 0, content);
        writer.section(kChangedPages, 0, std::as_bytes(std::span(state.changed_pages)));
    }
    for (std::uint32_t part = 0; part < kVmParts; ++part) {
        writer.section(kFirstVmPart + part, 0, state.vm.parts[part]);
    }
    for (std::uint32_t index = 0; index < state.vcpus.size(); ++index) {
        for (std::uint32_t part = 0; part < kVcpuParts; ++part) {
            writer.section(kFirstVcpuPart + part, index, state.vcpus[index].parts[part]);
        }
    }
    return {writer.finish(), checksum_of(writer.checksums())};
}

MachineState decode_state(std::span<const std::byte> bytes) {
    const std::uint32_t sections = check_header(bytes);
    std::span<const std::byte> rest = bytes.subspan(kHeaderBytes);
    MachineState state;
    Seen seen;
    std::vector<std::uint64_t> checksums;
    for (std::uint32_t number = 0; number < sections; ++number) {
        const Section section = take_section(rest, number);
        if (!seen.emplace(section.kind, section.index).second) {
            refuse(section.name, "comes twice");
        }
        take(state, section);
        checksums.push_back(section.checksum);
    }
    if (!rest.empty()) {
        refuse("end", "has " + std::to_string(rest.size()) + " bytes behind the last section");
    }
    check_complete(state, seen);
    check_together(state);
    state.identity.checksum = checksum_of(checksums);
    return state;
}

}  // namespace vmthaw
