#include "machine/payload/payload_image.hpp"

#ifdef VMTHAW_GUEST_PAYLOAD
// Hidden and global: local labels can share one slot of the global offset table, and the image is empty then.
asm(".section .rodata\n"
    ".balign 16\n"
    ".globl vmthaw_guest_payload_begin\n"
    ".hidden vmthaw_guest_payload_begin\n"
    "vmthaw_guest_payload_begin:\n"
    ".incbin \"" VMTHAW_GUEST_PAYLOAD
    "\"\n"
    ".globl vmthaw_guest_payload_end\n"
    ".hidden vmthaw_guest_payload_end\n"
    "vmthaw_guest_payload_end:\n"
    ".byte 0\n"
    ".previous\n");

[[gnu::visibility("hidden")]] extern const std::byte kPayloadBegin[] asm("vmthaw_guest_payload_begin");
[[gnu::visibility("hidden")]] extern const std::byte kPayloadEnd[] asm("vmthaw_guest_payload_end");
#endif

namespace vmthaw::payload {

std::span<const std::byte> payload_image() noexcept {
#ifdef VMTHAW_GUEST_PAYLOAD
    return {kPayloadBegin, kPayloadEnd};
#else
    return {};
#endif
}

}  // namespace vmthaw::payload
