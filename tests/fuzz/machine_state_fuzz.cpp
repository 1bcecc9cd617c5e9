#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "machine/guest_memory.hpp"
#include "machine/page_bits.hpp"
#include "machine/payload/mailbox.hpp"
#include "machine/snapshot/crc64.hpp"
#include "machine/snapshot/machine_state.hpp"

// State files: as they come, and with every checksum and size of the header put right, or no mutant would get past
// them. There is a SnapshotError that names a field, or a state whose promises hold and which survives being written
// again.
namespace {

constexpr std::size_t kHeader = 40;
constexpr std::size_t kSectionHeader = 16;
constexpr std::size_t kChecksum = 8;

using Bytes = std::vector<std::byte>;

template <typename Value>
void put(Bytes& bytes, std::size_t offset, Value value) {
    std::memcpy(bytes.data() + offset, &value, sizeof value);
}

void seal(Bytes& bytes) {
    if (bytes.size() < kHeader) {
        return;
    }
    std::memcpy(bytes.data(), "VMTHAWST", 8);
    put<std::uint32_t>(bytes, 8, vmthaw::kStateVersion);
    put<std::uint32_t>(bytes, 12, 1);
    put<std::uint64_t>(bytes, 16, bytes.size());
    put<std::uint32_t>(bytes, 28, 0);
    const std::span<const std::byte> all(bytes);
    put(bytes, 32, vmthaw::crc64(all.first(32)));
    for (std::size_t at = kHeader; bytes.size() - at >= kSectionHeader + kChecksum;) {
        std::uint64_t size = 0;
        std::memcpy(&size, bytes.data() + at + 8, sizeof size);
        if (size > bytes.size() - at - kSectionHeader - kChecksum) {
            return;
        }
        const std::size_t sealed = kSectionHeader + static_cast<std::size_t>(size);
        put(bytes, at + sealed, vmthaw::crc64(all.subspan(at, sealed)));
        at += sealed + kChecksum;
    }
}

bool decodes(const Bytes& bytes, vmthaw::MachineState& state) {
    try {
        state = vmthaw::decode_state(bytes);
        return true;
    } catch (const vmthaw::Error& error) {
        FUZZ_CHECK(error.class_name() == "SnapshotError");
        FUZZ_CHECK(error.fields().size() == 1 && error.fields().front().first == "field");
        FUZZ_CHECK(!std::get<std::string>(error.fields().front().second).empty());
        return false;
    }
}

void check(const Bytes& bytes) {
    vmthaw::MachineState state;
    if (!decodes(bytes, state)) {
        return;
    }
    (void)vmthaw::GuestMemory::layout(state.memory_bytes);  // throws, and so ends the run, on a size that cannot be
    FUZZ_CHECK(state.memory_data_pages <= state.memory_bytes / 4096);
    FUZZ_CHECK(state.workload.rewrite_count <= vmthaw::payload::kMostRewrites);
    FUZZ_CHECK(!state.vcpus.empty() && state.vcpus.size() <= vmthaw::kMostStateVcpus);
    FUZZ_CHECK(state.depth <= vmthaw::kMostDepth);
    if (state.is_diff()) {
        std::uint64_t pages = 0;
        vmthaw::for_each_page_run(state.changed_pages, [&](std::uint64_t first, std::uint64_t count) {
            FUZZ_CHECK(count > 0 && first < state.memory_bytes / 4096 && count <= state.memory_bytes / 4096 - first);
            pages += count;
        });
        FUZZ_CHECK(pages == state.memory_data_pages);
        FUZZ_CHECK(!state.base_path.empty() && state.base_path.size() <= vmthaw::kMostBasePath);
        FUZZ_CHECK(state.base_path.find('\0') == std::string::npos);
    } else {
        FUZZ_CHECK(state.changed_pages.empty() && state.base_path.empty());
    }
    for (std::uint32_t part = 0; part < vmthaw::kVmParts; ++part) {
        FUZZ_CHECK(vmthaw::is_vm_part_size(static_cast<vmthaw::VmPart>(part), state.vm.parts[part].size()));
    }
    for (const vmthaw::VcpuState& vcpu : state.vcpus) {
        for (std::uint32_t part = 0; part < vmthaw::kVcpuParts; ++part) {
            FUZZ_CHECK(vmthaw::is_vcpu_part_size(static_cast<vmthaw::VcpuPart>(part), vcpu.parts[part].size()));
        }
    }
    vmthaw::MachineState again;
    const vmthaw::EncodedState written = vmthaw::encode_state(state);
    FUZZ_CHECK(decodes(written.bytes, again));
    FUZZ_CHECK(again.identity == (vmthaw::SnapshotIdentity{state.identity.id, written.checksum}));
    FUZZ_CHECK(again.vcpus == state.vcpus && again.vm == state.vm && again.sequence == state.sequence);
    FUZZ_CHECK(again.busy == state.busy && again.has_payload == state.has_payload);
    FUZZ_CHECK(again.depth == state.depth && again.base == state.base && again.base_path == state.base_path);
    FUZZ_CHECK(again.changed_pages == state.changed_pages);
    FUZZ_CHECK(vmthaw::encode_state(again).bytes == written.bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto given = std::as_bytes(std::span(data, size));
    Bytes bytes(given.begin(), given.end());
    check(bytes);
    seal(bytes);
    check(bytes);
    return 0;
}
