// Registers of a live vCPU: the five of a snapshot, before and after the drain, and all of them.
#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>

#include "base/error.hpp"
#include "live_guest.hpp"
#include "machine/capture_full.hpp"
#include "machine/capture_registers.hpp"
#include "machine/dispatcher.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kSp = kRam + 0x45670;
constexpr std::uint64_t kSpOfEl0 = kRam + 0x76540;
constexpr std::uint64_t kTtbr1 = kRam + 0x123000;
constexpr std::uint64_t kTtbr0 = kRam + 0x456000;
constexpr std::uint64_t kTcr = 0x2B5193519;
constexpr std::uint64_t kLineStatus = 0x60;  // a transmitter that is empty

std::uint64_t place(const std::byte* symbol) {
    return kCode + static_cast<std::uint64_t>(symbol - guests::sets_registers().data());
}

class Capture : public OnKvm {
protected:
    void SetUp() override {
        OnKvm::SetUp();
        if (IsSkipped()) {
            return;
        }
        guest_.emplace();
        guest_->load(guests::sets_registers());
        const std::array<std::uint64_t, 5> values{kSp, kSpOfEl0, kTtbr1, kTtbr0, kTcr};
        for (std::size_t i = 0; i < values.size(); ++i) {
            guest_->set(general_register(19 + i), values.at(i));
        }
    }
    // Until the next exit, which the dispatcher answers.
    void run_to_exit() {
        const RunResult outcome = guest_->vcpu().run();
        const Exit exit = classify_exit(ExitProfile::strict, GuestArch::aarch64, outcome.result, outcome.errno_value,
                                        guest_->vcpu().run_bytes());
        ASSERT_TRUE(std::holds_alternative<MmioExit>(exit.payload)) << exit.describe();
        ASSERT_EQ(dispatcher_.handle(exit, guest_->vcpu().run_bytes()).kind, ExitActionKind::continue_);
    }
    std::optional<LiveGuest> guest_;
    SerialBuses serial_;
    Dispatcher dispatcher_{ExitProfile::strict, serial_.buses};
};

TEST_F(Capture, HasAllFiveRegistersAsTheGuestSetThem) {
    run_to_exit();
    const auto snapshot = capture_registers(guest_->vcpu());
    const RegisterSnapshot expected{place(guest_at_the_load), kSp, kTtbr1, kTtbr0, kTcr};
    ASSERT_TRUE(snapshot.has_value());
    EXPECT_EQ(*snapshot, expected);
    EXPECT_EQ(read_page_table_root(guest_->vcpu()), kTtbr1);
    EXPECT_EQ(read_tcr_el1(guest_->vcpu()), kTcr);
    EXPECT_TRUE(snapshot->to_text().ends_with("ptroot=0x0000000080123000 uptroot=0x0000000080456000"));
    EXPECT_EQ(RegisterSnapshot::from_json(snapshot->to_json()), expected);
}

TEST_F(Capture, BeforeTheDrainAStoreIsStillToCome) {
    run_to_exit();
    EXPECT_EQ(read_registers(guest_->vcpu()).value().instruction_pointer, place(guest_at_the_store));
    EXPECT_EQ(guest_->vcpu().drain(), 0);
    EXPECT_EQ(read_registers(guest_->vcpu()).value().instruction_pointer, place(guest_at_the_load));
    EXPECT_EQ(serial_.said(), "A") << "once, for all the draining";
}

TEST_F(Capture, BeforeTheDrainALoadHasNotHappened) {
    run_to_exit();
    run_to_exit();
    EXPECT_EQ(read_registers(guest_->vcpu()).value().instruction_pointer, place(guest_at_the_load));
    EXPECT_EQ(guest_->get(general_register(2)), std::uint64_t{'A'});
    EXPECT_EQ(capture_registers(guest_->vcpu()).value().instruction_pointer, place(guest_after_the_load));
    EXPECT_EQ(guest_->get(general_register(2)), kLineStatus);
}

TEST_F(Capture, FullHasEveryRegisterOfTheKernelsListUnderANameOfItsOwn) {
    run_to_exit();
    const FullRegisters all = capture_full(guest_->kvm(), guest_->vcpu());
    EXPECT_EQ(all.arch, GuestArch::aarch64);
    EXPECT_FALSE(all.after_shutdown);
    const std::vector<std::uint64_t> list = guest_->vcpu().reg_list();
    ASSERT_EQ(all.registers.size(), list.size());
    EXPECT_GT(list.size(), 200U);
    std::set<std::string> names;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const NamedRegister& entry = all.registers.at(i);
        EXPECT_EQ(entry.name, aarch64_register_name(list.at(i)));
        EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
        EXPECT_EQ(entry.value.size(), std::size_t{1} << (list.at(i) >> 52U & 15U)) << entry.name;
    }
    EXPECT_EQ(all.number("pc"), place(guest_at_the_load));
    EXPECT_EQ(all.number("sp_el1"), kSp);
    EXPECT_EQ(all.number("sp"), kSpOfEl0);
    EXPECT_EQ(all.number("x21"), kTtbr1);
    EXPECT_EQ(all.number("pstate"), 0x3C5U) << "EL1h, all masked";
    EXPECT_EQ(all.number("s3_0_c12_c0_0"), kVectors);
    const PagingState paging = all.paging_state();
    EXPECT_EQ(paging.ttbr0, kTtbr0);
    EXPECT_EQ(paging.ttbr1, kTtbr1);
    EXPECT_EQ(paging.tcr, kTcr);
    EXPECT_FALSE(paging.is_mmu_on);
}

TEST_F(Capture, TwoFullOnesDifferInWhatTheGuestDidBetweenThem) {
    run_to_exit();
    const FullRegisters before = capture_full(guest_->kvm(), guest_->vcpu());
    run_to_exit();
    run_to_exit();
    const FullRegisters after = capture_full(guest_->kvm(), guest_->vcpu());
    std::set<std::string> names;
    for (const RegisterDifference& one : diff(before, after)) {
        names.insert(one.name);
        const bool is_a_clock = one.name.starts_with("s3_3_c14_");  // counters and timers
        EXPECT_TRUE(is_a_clock || std::set<std::string>({"pc", "x2", "x5", "v3"}).contains(one.name)) << one.name;
    }
    EXPECT_TRUE(std::ranges::includes(names, std::set<std::string>{"pc", "v3", "x2", "x5"}));
    EXPECT_EQ(after.number("x2"), kLineStatus);
    EXPECT_EQ(after.number("x5"), before.number("x5") + 1);
}

TEST_F(Capture, RegistersOfEveryWidthAreWrittenAndReadBack) {
    std::array<std::byte, 16> value{};
    for (std::size_t i = 0; i < value.size(); ++i) {
        value.at(i) = static_cast<std::byte>(0x10 + i);
    }
    guest_->vcpu().set_one_reg(vector_register(7), value);
    std::array<std::byte, 16> read{};
    guest_->vcpu().one_reg(vector_register(7), read);
    EXPECT_EQ(read, value);
    EXPECT_EQ(capture_full(guest_->kvm(), guest_->vcpu()).find("v7")->value, RegisterBytes(value.begin(), value.end()));
    guest_->vcpu().set_one_reg(general_register(9), 0x1122334455667788);
    EXPECT_EQ(guest_->get(general_register(9)), 0x1122334455667788U);
}

TEST_F(Capture, AWrongWidthOrNumberIsRefusedAndNamed) {
    EXPECT_THROW(guest_->vcpu().set_one_reg(vector_register(7), std::uint64_t{1}), ArgumentError);
    constexpr std::uint64_t kNone = 0x603000000010FFF0;
    EXPECT_FALSE(guest_->vcpu().try_one_reg(kNone).has_value());
    try {
        guest_->vcpu().set_one_reg(kNone, std::uint64_t{1});
        FAIL() << "nobody refused it";
    } catch (const SystemError& error) {
        EXPECT_NE(std::string(error.what()).find(hex(kNone)), std::string::npos) << error.what();
    }
}

TEST_F(Capture, InitTakesAVcpuBackToItsReset) {
    run_to_exit();
    guest_->vcpu().init(guest_->vm().preferred_target());
    EXPECT_EQ(guest_->get(kRegisterPc), 0U);
    EXPECT_EQ(guest_->get(kRegisterTcr), 0U);
    EXPECT_EQ(guest_->get(kRegisterPstate), 0x3C5U);
}

}  // namespace
}  // namespace vmthaw
