#include "live_guest.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace vmthaw {
namespace {

// Of a thread, in proc(5): what follows the name, which is in brackets and may hold anything.
char state_of(const std::filesystem::path& task) {
    std::ifstream file(task / "stat");
    const std::string line{std::istreambuf_iterator<char>(file), {}};
    const std::size_t name_end = line.rfind(')');
    return name_end == std::string::npos || name_end + 2 >= line.size() ? '?' : line[name_end + 2];
}

bool all_others_sleep() {
    const std::string own = std::to_string(::getpid());  // the first thread, which runs the tests
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
        if (task.path().filename() != own && state_of(task.path()) != 'S') {
            return false;
        }
    }
    return true;
}

}  // namespace

LiveGuest::LiveGuest(std::uint32_t vcpus) {
    const GuestRegion& region = memory_->regions().front();
    vm_.set_memory_slot({0, region.guest_address, region.host_address(), region.size_bytes, false, false});
    for (std::uint32_t index = 0; index < vcpus; ++index) {
        vcpus_.push_back(std::make_unique<Vcpu>(vm_.create_vcpu(index)));
    }
}

void LiveGuest::load(std::span<const std::byte> code) {
    memory_->write(kCode, code);
    memory_->write(kVectors, guests::vectors());
    const std::span<std::byte> bytes = memory_->at(kCode, kText - kCode);
    auto* const start = reinterpret_cast<char*>(bytes.data());
    __builtin___clear_cache(start, start + bytes.size());
    for (std::size_t index = 0; index < vcpus_.size(); ++index) {
        set(kRegisterVbar, kVectors, index);
        set(kRegisterPc, kCode, index);
        set(kRegisterSpEl1, stack_of(index), index);
        set(general_register(28), index, index);
    }
}

std::vector<Vcpu*> LiveGuest::vcpus() const {
    std::vector<Vcpu*> pointers;
    for (const auto& vcpu : vcpus_) {
        pointers.push_back(vcpu.get());
    }
    return pointers;
}

std::uint64_t LiveGuest::get(std::uint64_t id, std::size_t index) const {
    return vcpus_.at(index)->try_one_reg(id).value();
}

void LiveGuest::set(std::uint64_t id, std::uint64_t value, std::size_t index) const {
    vcpus_.at(index)->set_one_reg(id, value);
}

SerialBuses::SerialBuses() {
    StandardDevices devices;
    devices.com1 = serial;
    buses->add_standard(devices);
}

std::string SerialBuses::said() {
    const std::vector<std::uint8_t> bytes = output->take(output->capacity_bytes());
    return {bytes.begin(), bytes.end()};
}

LiveRun::LiveRun(const LiveGuest& guest, const std::shared_ptr<Buses>& buses)
    : loop_(guest.vcpus(), std::make_shared<Dispatcher>(ExitProfile::strict, buses), {}, nullptr) {
    for (std::size_t index = 0; index < loop_.vcpu_count(); ++index) {
        threads_.emplace_back([this, index] { loop_.run_vcpu(index); });
    }
}

LiveRun::~LiveRun() {
    loop_.stop();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

RunEnd LiveRun::wait() {
    EXPECT_TRUE(loop_.wait(kPatience_ns)) << "the guest runs on";
    loop_.stop();
    EXPECT_TRUE(loop_.wait(kPatience_ns)) << "the guest does not stop";
    return loop_.end().value_or(RunEnd{});
}

void LiveRun::wait_asleep() {
    const std::uint64_t deadline_ns = monotonic_ns() + kPatience_ns;
    while (!all_others_sleep()) {
        ASSERT_LT(monotonic_ns(), deadline_ns) << "a vCPU does not come to rest";
        std::this_thread::yield();
    }
}

void OnKvm::SetUp() {
    try {
        const Kvm kvm;
    } catch (const SystemError& error) {
        GTEST_SKIP() << "no KVM: " << error.what();
    }
}

}  // namespace vmthaw
