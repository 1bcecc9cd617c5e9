#include <fuzzer/FuzzedDataProvider.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fuzz_check.hpp"
#include "vcpu/exit.hpp"

// Exits out of hostile bytes: whatever the kernel's structure says, nothing outside the mapping is pointed to, lengths
// are those of the hardware, and an error's stale payload is not read.
namespace {

using vmthaw::Exit;

struct Check {
    const Exit& exit;
    std::span<const std::byte> mapping;

    void operator()(const vmthaw::IoExit& io) const {
        FUZZ_CHECK(io.size_bytes == 1 || io.size_bytes == 2 || io.size_bytes == 4);
        FUZZ_CHECK(io.count > 0 && io.data_offset <= mapping.size());
        FUZZ_CHECK(io.data_bytes() / io.size_bytes == io.count);
        std::uint64_t sum = 0;  // the sanitizer sees a byte outside
        for (const std::byte byte : mapping.subspan(io.data_offset, io.data_bytes())) {
            sum += std::to_integer<std::uint64_t>(byte);
        }
        FUZZ_CHECK(sum <= io.data_bytes() * 255);
    }
    void operator()(const vmthaw::MmioExit& mmio) const {
        FUZZ_CHECK(mmio.size_bytes <= mmio.data.size());  // 0 is harmless: nothing is accessed
    }
    void operator()(const vmthaw::InternalErrorExit& error) const {
        FUZZ_CHECK(error.data_count <= error.data.size() && error.instruction_size <= error.instruction.size());
    }
    void operator()(const vmthaw::SystemEventExit& event) const { FUZZ_CHECK(event.data_count <= event.data.size()); }
    void operator()(const vmthaw::MalformedExit& malformed) const { FUZZ_CHECK(malformed.problem[0] != '\0'); }
    template <typename Other>
    void operator()(const Other& /*payload*/) const {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const auto arch = input.ConsumeBool() ? vmthaw::GuestArch::x86_64 : vmthaw::GuestArch::aarch64;
    const int result = input.ConsumeBool() ? 0 : -1;
    const int errors[] = {EINTR, EAGAIN, EFAULT, vmthaw::kErrnoHwPoison, ENOEXEC, 0};
    const int errno_value = input.PickValueInArray(errors);
    const std::vector<std::uint8_t> bytes = input.ConsumeRemainingBytes<std::uint8_t>();
    const auto mapping = std::as_bytes(std::span(bytes));
    const Exit exit = vmthaw::decode_exit(arch, result, errno_value, mapping);
    FUZZ_CHECK(exit.result == result && exit.errno_value == (result < 0 ? errno_value : 0));
    std::visit(Check{exit, mapping}, exit.payload);
    if (result < 0) {
        FUZZ_CHECK(!exit.has_reason || exit.reason == vmthaw::kKvmExitMemoryFault);
        FUZZ_CHECK(!exit.is_interrupted() || !exit.has_reason);
    } else {
        FUZZ_CHECK(!exit.is_interrupted());
        FUZZ_CHECK(exit.has_reason == (mapping.size() >= vmthaw::kKvmRunPayload + vmthaw::kKvmRunPayloadBytes));
    }
    FUZZ_CHECK(!exit.name().empty() && !exit.describe().empty());
    return 0;
}
