// Runs of a vCPU whose every KVM_RUN fails: a file in its place, with an old exit in its mapping.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "kvm/vcpu.hpp"
#include "machine/run_loop/run_loop.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kPatience_ns = 60'000'000'000;

Vcpu broken_vcpu(std::uint32_t old_reason) {
    constexpr std::size_t kBytes = 12288;
    UniqueFd fd(::memfd_create("no vCPU", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), kBytes) != 0) {
        throw SystemError(errno, "ftruncate");
    }
    Vcpu vcpu(std::move(fd), kBytes, 0);
    std::memcpy(vcpu.run_bytes().data() + kKvmRunExitReason, &old_reason, sizeof old_reason);
    return vcpu;
}

RunEnd end_of(ExitProfile profile, std::uint32_t old_reason) {
    Vcpu vcpu = broken_vcpu(old_reason);
    const auto buses = std::make_shared<Buses>(kHostArch);
    RunLoop loop({&vcpu}, std::make_shared<Dispatcher>(profile, buses), {}, nullptr);
    std::thread thread([&] { loop.run_vcpu(0); });
    const bool has_ended = loop.wait(kPatience_ns);
    EXPECT_TRUE(has_ended) << "it spins";
    loop.stop();
    thread.join();
    EXPECT_EQ(vcpu.runs(), 1U);
    EXPECT_EQ(loop.counters(0).exits(VcpuCounters::kReasons - 1), 1U);
    return loop.end().value_or(RunEnd{});
}

TEST(RunLoopFailures, ALastingErrorIsFatalNamesItselfAndTheOldExitIsNotRead) {
    for (const std::uint32_t old_reason : {kKvmExitShutdown, kKvmExitHlt, kKvmExitIo, kKvmExitMemoryFault}) {
        const RunEnd end = end_of(ExitProfile::strict, old_reason);
        EXPECT_EQ(end.kind, RunEndKind::fatal) << old_reason;
        EXPECT_EQ(end.action, (ExitAction{ExitActionKind::fatal, ENOTTY}));
        EXPECT_FALSE(end.exit.has_reason);
        EXPECT_EQ(end.exit.errno_value, ENOTTY);
        EXPECT_NE(end.exit.describe().find("Inappropriate ioctl"), std::string::npos) << end.exit.describe();
        ASSERT_FALSE(HasFailure());  // a loop that spins costs each time the whole patience
    }
}

TEST(RunLoopFailures, TheLenientProfileKnowsNoAnswerAndDoesNotSpinEither) {
    for (const std::uint32_t old_reason : {kKvmExitShutdown, kKvmExitHlt}) {
        const RunEnd end = end_of(ExitProfile::lenient, old_reason);
        EXPECT_EQ(end.kind, RunEndKind::unhandled) << old_reason;
        EXPECT_FALSE(end.exit.has_reason);
        ASSERT_FALSE(HasFailure());
    }
}

}  // namespace
}  // namespace vmthaw
