// The serial port at 0x09000000, through the run loop and its dispatcher.
#include <array>
#include <string_view>

#include "live_guest.hpp"

namespace vmthaw {
namespace {

class SerialPort : public OnKvm {};

TEST_F(SerialPort, TakesWhatAGuestSaysByteByByte) {
    constexpr std::string_view kWords = "Hello from EL1\n";
    LiveGuest guest;
    guest.load(guests::says());
    guest.memory().write(kText, std::as_bytes(std::span(kWords)));
    guest.set(general_register(19), kText);
    SerialBuses serial;
    LiveRun run(guest, serial.buses);
    EXPECT_EQ(run.wait().kind, RunEndKind::shutdown);
    EXPECT_EQ(serial.said(), kWords);
    EXPECT_EQ(guest.get(general_register(19)), kText + kWords.size() + 1);
}

TEST_F(SerialPort, GivesAGuestWhatWasSentToIt) {
    constexpr std::array<std::uint8_t, 4> kSent{'p', 'i', 'n', 'g'};
    LiveGuest guest;
    guest.load(guests::answers());
    SerialBuses serial;
    const std::array<std::uint8_t, 1> kFifoOn{1};
    ASSERT_EQ(serial.serial->write(2, kFifoOn), DeviceOutcome::done);  // room for more than one byte
    ASSERT_EQ(serial.serial->receive(kSent).bytes, kSent.size());
    LiveRun run(guest, serial.buses);
    EXPECT_EQ(run.wait().kind, RunEndKind::shutdown);
    EXPECT_EQ(serial.said(), "PING");
}

}  // namespace
}  // namespace vmthaw
