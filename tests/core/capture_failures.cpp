// Captures of a vCPU whose every ioctl fails: a file in its place, which can be mapped and no more.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "kvm/vcpu.hpp"
#include "machine/capture_registers.hpp"
#include "machine/freeze/freeze_coordinator.hpp"

namespace vmthaw {
namespace {

Vcpu broken_vcpu() {
    constexpr std::size_t kBytes = 12288;
    UniqueFd fd(::memfd_create("no vCPU", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), kBytes) != 0) {
        throw SystemError(errno, "ftruncate");
    }
    return {std::move(fd), kBytes, 0};
}

TEST(CaptureFailures, GiveNoSnapshot) {
    Vcpu vcpu = broken_vcpu();
    EXPECT_EQ(vcpu.drain(), ENOTTY);
    EXPECT_FALSE(vcpu.immediate_exit());
    EXPECT_EQ(capture_registers(vcpu), std::nullopt);
    EXPECT_EQ(read_registers(vcpu), std::nullopt);
    EXPECT_EQ(read_page_table_root(vcpu), std::nullopt);
    EXPECT_EQ(read_tcr_el1(vcpu), std::nullopt);
    EXPECT_FALSE(vcpu.has_shut_down());
}

TEST(CaptureFailures, ParkAllTheSame) {
    Vcpu vcpu = broken_vcpu();
    FreezeCoordinator coordinator({&vcpu});
    std::atomic<bool> attached{false};
    std::thread thread([&] {
        FreezeCoordinator::Attachment attachment(coordinator, 0);
        attached.store(true);
        while (attachment.head() == LoopHead::run) {
            std::this_thread::yield();
        }
    });
    constexpr std::uint64_t kPatience_ns = 60'000'000'000;
    while (!attached.load()) {
        std::this_thread::yield();
    }
    const FreezeCoordinator::Outcome outcome = coordinator.freeze(kPatience_ns);
    EXPECT_TRUE(coordinator.is_parked(0));
    EXPECT_EQ(outcome.status, FreezeStatus::frozen);
    ASSERT_EQ(outcome.snapshots.size(), 1U);
    EXPECT_EQ(outcome.snapshots[0], std::nullopt);
    coordinator.kill();
    thread.join();
}

}  // namespace
}  // namespace vmthaw
