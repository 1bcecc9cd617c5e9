#include "machine/payload/load_payload.hpp"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "machine/payload/payload_image.hpp"

namespace vmthaw::payload {
namespace {

// Intel SDM volume 3, 4.5. Accessed and dirty are set from the start, so that the processor writes no page tables.
constexpr Word kPresentWritableUser = 7;
constexpr Word kAccessedDirty = 0x60;
constexpr Word kLargePage = 0x80;
constexpr Word kLargePageBytes = 2U << 20U;
constexpr Word kDirectoryEntries = 512;
constexpr std::size_t kMagicOffset = 8;

void write_words(const GuestMemory& memory, Word address, std::span<const Word> words) {
    memory.write(address, std::as_bytes(words));
}

void write_page_tables(const GuestMemory& memory) {
    const GuestRegion& last = memory.regions().back();
    const Word end = last.guest_address + last.size_bytes;
    const Word directories = (end + kDirectoryEntries * kLargePageBytes - 1) / (kDirectoryEntries * kLargePageBytes);
    if (directories > kMostDirectories) {
        throw ArgumentError("the payload maps at most 80 GiB of guest addresses");
    }
    std::vector<Word> upper(kDirectoryEntries);
    upper[0] = kPdptAddress | kPresentWritableUser | kAccessedDirty;
    write_words(memory, kPml4Address, upper);
    upper[0] = 0;
    for (Word i = 0; i < directories; ++i) {
        upper[i] = (kDirectoryAddress + i * kPageBytes) | kPresentWritableUser | kAccessedDirty;
        std::vector<Word> directory(kDirectoryEntries);
        for (Word j = 0; j < kDirectoryEntries; ++j) {
            const Word address = (i * kDirectoryEntries + j) * kLargePageBytes;
            if (address < end) {
                directory[j] = address | kPresentWritableUser | kAccessedDirty | kLargePage;
            }
        }
        write_words(memory, kDirectoryAddress + i * kPageBytes, directory);
    }
    write_words(memory, kPdptAddress, upper);
}

}  // namespace

void load_payload(const GuestMemory& memory) {
    const std::span<const std::byte> image = payload_image();
    Word magic = 0;
    if (image.size() >= kMagicOffset + sizeof magic) {
        std::memcpy(&magic, image.data() + kMagicOffset, sizeof magic);
    }
    if (magic != kMagic || image.size() > kCodeMostBytes) {
        throw SystemError(ENOTSUP, "loading the guest's payload", "it is built on x86-64 only");
    }
    write_page_tables(memory);
    memory.write(kCodeAddress, image);
}

#if defined(__x86_64__)

void start_at_payload(const Kvm& kvm, const Vcpu& vcpu, std::uint32_t index) {
    vcpu.set_cpuid(kvm.supported_cpuid());
    kvm_sregs sregs = vcpu.sregs();
    kvm_segment segment{};
    segment.limit = 0xFFFFFFFF;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    segment.dpl = 3;
    segment.selector = 0x23;
    segment.type = 3;  // data, accessed
    segment.db = 1;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
    segment.selector = 0x1B;
    segment.type = 11;  // code, accessed
    segment.db = 0;
    segment.l = 1;
    sregs.cs = segment;
    sregs.idt.limit = 0;
    sregs.gdt.limit = 0;
    sregs.cr0 = 0x80050033;  // PG AM WP NE ET MP PE
    sregs.cr3 = kPml4Address;
    sregs.cr4 = 0x620;   // OSXMMEXCPT OSFXSR PAE
    sregs.efer = 0x500;  // LMA LME
    vcpu.set_sregs(sregs);
    kvm_regs regs{};
    regs.rip = kCodeAddress;
    regs.rsp = kStackAddress + (index + 1) * kStackBytes;
    regs.rdi = kMailboxAddress + index * kPageBytes;
    regs.rflags = 0x3002;  // IOPL 3
    vcpu.set_regs(regs);
}

#else

void start_at_payload(const Kvm& /*kvm*/, const Vcpu& /*vcpu*/, std::uint32_t /*index*/) {
    throw SystemError(ENOTSUP, "starting the guest's payload", "it is built on x86-64 only");
}

#endif

void check_command(const Command& command, std::uint64_t memory_bytes) {
    const Word all = memory_bytes / kPageBytes;
    if (command.first_page < kFirstWorkPage || command.first_page > all || command.pages > all - command.first_page) {
        throw ArgumentError("pages [" + std::to_string(command.first_page) + ", +" + std::to_string(command.pages) +
                            ") are not within the guest's work area, pages " + std::to_string(kFirstWorkPage) + " to " +
                            std::to_string(all - 1));
    }
    if (command.workload.rewrite_count > kMostRewrites) {
        throw ArgumentError("a workload has at most " + std::to_string(kMostRewrites) + " rewritings");
    }
    if (command.order > kZipf) {
        throw ArgumentError("order must be sequential, random or zipf");
    }
}

}  // namespace vmthaw::payload
