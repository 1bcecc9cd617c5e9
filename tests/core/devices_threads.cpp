#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "devices/interrupt_pin.hpp"
#include "devices/serial.hpp"
#include "devices/virtio_mmio.hpp"

// Devices under several threads at once. Under the thread sanitizer these tests are about data races.
namespace vmthaw {
namespace {

// Notes what it is told, and that it is told one thing at a time.
class WatchedLine final : public InterruptLine {
public:
    DeviceOutcome set_level(bool next) noexcept override {
        EXPECT_FALSE(busy_.exchange(true));
        EXPECT_NE(next, level);
        level = next;
        rises += next ? 1 : 0;
        busy_.store(false);
        return DeviceOutcome::done;
    }
    bool level = false;  // of whoever delivers; read after the threads are gone
    std::uint64_t rises = 0;

private:
    std::atomic<bool> busy_{false};
};

TEST(InterruptPin, TellsItsLineOfEveryChangeAndOfNothingElse) {
    const auto line = std::make_shared<WatchedLine>();
    InterruptPin pin(line);
    EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
    for (const bool level : {false, true, true, false, true}) {
        pin.set(level);
        EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
    }
    EXPECT_TRUE(line->level);
    EXPECT_EQ(line->rises, 2U);
}

TEST(InterruptPin, MakesOnePulseOfThoseThatNobodyHeardOfAndLosesNoRise) {
    const auto line = std::make_shared<WatchedLine>();
    InterruptPin pin(line);
    for (int i = 0; i < 100; ++i) {
        pin.set(true);
        pin.set(false);
    }
    EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
    EXPECT_FALSE(line->level);
    EXPECT_GE(line->rises, 1U);
    EXPECT_LE(line->rises, 2U);
    pin.set(true);
    pin.set(false);
    pin.set(true);
    EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
    EXPECT_TRUE(line->level);
}

TEST(InterruptPin, TellsOneThingAtATimeAndTheLastLevelLast) {
    const auto line = std::make_shared<WatchedLine>();
    InterruptPin pin(line);
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
        threads.emplace_back([&pin] {
            for (int i = 0; i < 5000; ++i) {
                pin.set(i % 2 == 0);
                EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    pin.set(true);
    EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
    EXPECT_TRUE(line->level);
}

TEST(InterruptPin, SaysThatItsLineFailedAndGoesOn) {
    class FailingLine final : public InterruptLine {
    public:
        DeviceOutcome set_level(bool /*level*/) noexcept override { return DeviceOutcome::failed; }
    };
    InterruptPin pin(std::make_shared<FailingLine>());
    pin.set(true);
    EXPECT_EQ(pin.deliver(), DeviceOutcome::failed);
    EXPECT_EQ(pin.deliver(), DeviceOutcome::done);
}

TEST(SerialThreads, LoseNoByteBetweenTypistGuestAndReader) {
    constexpr std::size_t kBytes = 20000;
    const auto output = std::make_shared<OutputBuffer>(64);
    const auto line = std::make_shared<WatchedLine>();
    Serial serial(output, line);
    const std::uint8_t enable = 1;
    ASSERT_EQ(serial.write(1, {&enable, 1}), DeviceOutcome::done);
    ASSERT_EQ(serial.write(2, {&enable, 1}), DeviceOutcome::done);
    std::atomic<std::size_t> echoed{0};
    std::vector<std::uint8_t> heard;
    std::thread typist([&] {
        for (std::size_t i = 0; i < kBytes;) {
            const auto byte = static_cast<std::uint8_t>(i * 31);
            const std::size_t taken = serial.receive({&byte, 1}).bytes;
            i += taken;
            if (taken == 0) {
                std::this_thread::yield();
            }
        }
    });
    // The guest echoes, but never so far ahead of the reader that the buffer drops a byte.
    std::thread guest([&] {
        while (echoed.load() < kBytes) {
            std::uint8_t status = 0;
            ASSERT_EQ(serial.read(5, {&status, 1}), DeviceOutcome::done);
            if ((status & 1U) == 0 || output->size_bytes() > 32) {
                std::this_thread::yield();
                continue;
            }
            std::uint8_t byte = 0;
            ASSERT_EQ(serial.read(0, {&byte, 1}), DeviceOutcome::done);
            ASSERT_EQ(serial.write(0, {&byte, 1}), DeviceOutcome::done);
            echoed.fetch_add(1);
        }
    });
    while (heard.size() < kBytes) {
        ASSERT_TRUE(output->wait(std::chrono::seconds(60)));
        const std::vector<std::uint8_t> piece = output->take(1000);
        heard.insert(heard.end(), piece.begin(), piece.end());
    }
    typist.join();
    guest.join();
    EXPECT_EQ(output->dropped_bytes(), 0U);
    for (std::size_t i = 0; i < kBytes; ++i) {
        ASSERT_EQ(heard[i], static_cast<std::uint8_t>(i * 31));
    }
    EXPECT_FALSE(line->level);
}

TEST(VirtioMmioThreads, KeepTheInterruptAndItsCauseTogether) {
    const auto line = std::make_shared<WatchedLine>();
    VirtioMmio window(make_idle_console(), line);
    const auto put = [&window](std::uint64_t offset, std::uint32_t value) {
        std::array<std::uint8_t, 4> bytes{};
        std::memcpy(bytes.data(), &value, sizeof value);
        EXPECT_EQ(window.write(offset, bytes), DeviceOutcome::done);
    };
    put(0x70, 1);
    put(0x70, 3);
    put(0x24, 1);
    put(0x20, 1);
    put(0x70, 11);
    put(0x70, 15);
    ASSERT_EQ(window.state().status, 15U);
    std::thread device([&] {
        for (int i = 0; i < 5000; ++i) {
            EXPECT_EQ(window.signal_used(), DeviceOutcome::done);
        }
    });
    std::thread driver([&] {
        for (int i = 0; i < 5000; ++i) {
            put(0x64, 3);
        }
    });
    device.join();
    driver.join();
    EXPECT_EQ(line->level, window.state().interrupt_status != 0);
    put(0x64, 3);
    EXPECT_FALSE(line->level);
    EXPECT_GE(line->rises, 1U);
}

}  // namespace
}  // namespace vmthaw
