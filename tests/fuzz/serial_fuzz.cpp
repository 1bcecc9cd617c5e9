#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/serial.hpp"
#include "fuzz_check.hpp"

// A guest that does anything to a serial port, and a host that types meanwhile: registers keep to their bits, the FIFO
// to its size, output to what was sent, and the interrupt to its cause.
namespace {

using vmthaw::Serial;

class CountingSink final : public vmthaw::ByteSink {
public:
    void write(std::span<const std::uint8_t> data) noexcept override { bytes += data.size(); }
    std::uint64_t bytes = 0;
};

class CheckedLine final : public vmthaw::InterruptLine {
public:
    vmthaw::DeviceOutcome set_level(bool next) noexcept override {
        FUZZ_CHECK(next != level);
        level = next;
        return vmthaw::DeviceOutcome::done;
    }
    bool level = false;
};

void check(const Serial::Registers& now, const CheckedLine& line) {
    constexpr unsigned kFifo = 0xC0;
    FUZZ_CHECK(now.ier <= 0x0F && now.mcr <= 0x1F && (now.fcr & ~0xC9U) == 0);
    FUZZ_CHECK((now.fcr == 0) == ((now.iir & kFifo) == 0));
    FUZZ_CHECK(now.waiting_bytes <= ((now.fcr & 1U) != 0 ? Serial::kFifoBytes : 1));
    FUZZ_CHECK(((now.lsr & 1U) != 0) == (now.waiting_bytes > 0) && (now.lsr & 0x60U) == 0x60U);
    const unsigned cause = now.iir & 0x0FU;
    FUZZ_CHECK(cause == 0x01 || cause == 0x06 || cause == 0x04 || cause == 0x0C || cause == 0x02 || cause == 0x00);
    FUZZ_CHECK(line.level == (cause != 0x01));
    FUZZ_CHECK(now.ier != 0 || !line.level);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const auto sink = std::make_shared<CountingSink>();
    const auto line = std::make_shared<CheckedLine>();
    Serial serial(sink, line);
    std::uint64_t sent = 0;
    while (input.remaining_bytes() > 0) {
        const std::uint64_t offset = input.ConsumeBool() ? input.ConsumeIntegralInRange<std::uint64_t>(0, 7)
                                                         : input.ConsumeIntegral<std::uint64_t>();
        const std::size_t length = input.ConsumeIntegralInRange<std::size_t>(1, 8);
        const Serial::Registers before = serial.registers();
        switch (input.ConsumeIntegralInRange<int>(0, 2)) {
            case 0: {
                std::vector<std::uint8_t> out(length, 0xAA);
                FUZZ_CHECK(serial.read(offset, out) == vmthaw::DeviceOutcome::done);
                FUZZ_CHECK(offset < 256 || out == std::vector<std::uint8_t>(length, 0xFF));
                FUZZ_CHECK(offset < 8 || offset >= 256 || out.front() == 0);
                break;
            }
            case 1: {
                const auto written = input.ConsumeBytes<std::uint8_t>(length);
                FUZZ_CHECK(serial.write(offset, written) == vmthaw::DeviceOutcome::done);
                sent += !written.empty() && offset == 0 && (before.lcr & 0x80U) == 0 && (before.mcr & 0x10U) == 0;
                break;
            }
            default: {
                const auto typed = input.ConsumeBytes<std::uint8_t>(input.ConsumeIntegralInRange<std::size_t>(0, 80));
                const Serial::Received received = serial.receive(typed);
                FUZZ_CHECK(received.bytes <= typed.size());
                FUZZ_CHECK(serial.registers().waiting_bytes == before.waiting_bytes + received.bytes);
                break;
            }
        }
        check(serial.registers(), *line);
        FUZZ_CHECK(sink->bytes == sent);
    }
    return 0;
}
