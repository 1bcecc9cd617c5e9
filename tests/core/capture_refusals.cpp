// Captures of a vCPU where the kernel refuses one request of several: a filter on the thread's system calls does it.
#if defined(__x86_64__)

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <thread>

#include "base/error.hpp"
#include "kvm/kvm.hpp"
#include "kvm/vm.hpp"
#include "machine/capture_registers.hpp"

namespace vmthaw {
namespace {

// From now on every ioctl of this number fails with EIO, for the calling thread. False where filters are not allowed.
bool refuse_ioctl(std::uint32_t request) {
    constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
    constexpr std::uint32_t kRequest = offsetof(seccomp_data, args) + sizeof(std::uint64_t);  // its low half
    std::array<sock_filter, 6> program{{
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, kNumber},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_ioctl},
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, kRequest},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, request},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EIO},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    }};
    const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0;
}

struct Answers {
    bool is_refused = false;
    std::optional<RegisterSnapshot> captured;
    std::optional<RegisterSnapshot> read;
    std::optional<std::uint64_t> page_table_root;
};

class CaptureRefusals : public ::testing::Test {
protected:
    void SetUp() override {
        try {
            kvm_.emplace();
        } catch (const SystemError& error) {
            GTEST_SKIP() << "no KVM: " << error.what();
        }
        vm_.emplace(kvm_->create_vm());
        vcpu_.emplace(vm_->create_vcpu(0));
    }
    // On a thread of its own, which the refusal ends with.
    [[nodiscard]] Answers ask(std::optional<std::uint32_t> refused) {
        Answers answers;
        std::thread thread([&] {
            answers.is_refused = refused && refuse_ioctl(*refused);
            answers.captured = capture_registers(*vcpu_);
            answers.read = read_registers(*vcpu_);
            answers.page_table_root = read_page_table_root(*vcpu_);
        });
        thread.join();
        return answers;
    }

    std::optional<Kvm> kvm_;
    std::optional<Vm> vm_;
    std::optional<Vcpu> vcpu_;
};

TEST_F(CaptureRefusals, AnyRequestThatFailsLeavesNoSnapshot) {
    const Answers whole = ask({});
    ASSERT_NE(whole.captured, std::nullopt);
    EXPECT_EQ(whole.captured, whole.read);
    EXPECT_EQ(whole.page_table_root, whole.captured.value_or(RegisterSnapshot{}).page_table_root);

    const Answers without_general = ask(KVM_GET_REGS);
    if (!without_general.is_refused) {
        GTEST_SKIP() << "no filters on system calls here";
    }
    EXPECT_EQ(without_general.captured, std::nullopt);
    EXPECT_EQ(without_general.read, std::nullopt);
    EXPECT_EQ(without_general.page_table_root, whole.page_table_root) << "it needs the special registers alone";

    const Answers without_special = ask(static_cast<std::uint32_t>(KVM_GET_SREGS));
    EXPECT_TRUE(without_special.is_refused);
    EXPECT_EQ(without_special.captured, std::nullopt);
    EXPECT_EQ(without_special.read, std::nullopt);
    EXPECT_EQ(without_special.page_table_root, std::nullopt);

    const Answers without_drain = ask(KVM_RUN);
    EXPECT_EQ(without_drain.captured, std::nullopt) << "what was not drained may be stale";
    EXPECT_EQ(without_drain.read, whole.read);
}

}  // namespace
}  // namespace vmthaw

#endif
