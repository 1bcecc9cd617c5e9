// Memory that a guest has and the host cannot give it: the run ends, this process does not.
#include <sys/mman.h>

#include <cerrno>

#include "base/mapping.hpp"
#include "live_guest.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"
#include "vcpu/exit.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kPlace = 0xC0000000;
constexpr std::size_t kBytes = 0x10000;
constexpr std::uint64_t kPageBytes = 0x1000;

class UnreachableMemory : public OnKvm {
protected:
    // How the run of a guest ends that loads from `address`, with `memory` at kPlace.
    static RunEnd end_of_a_load(std::uint64_t address, const Mapping& memory) {
        LiveGuest guest;
        guest.vm().set_memory_slot(
            {1, kPlace, reinterpret_cast<std::uint64_t>(memory.data()), memory.size(), false, false});
        guest.load(guests::loads());
        guest.set(general_register(19), address);
        SerialBuses serial;
        LiveRun run(guest, serial.buses);
        return run.wait();
    }
};

TEST_F(UnreachableMemory, AMappingThatAllowsNothingIsFatalAndHasNoAddress) {
    const Mapping closed = Mapping::map(kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "mmap");
    const RunEnd end = end_of_a_load(kPlace, closed);
    EXPECT_EQ(end.kind, RunEndKind::fatal);
    EXPECT_FALSE(end.exit.has_reason);
    EXPECT_EQ(end.exit.errno_value, EFAULT);
}

TEST_F(UnreachableMemory, APoisonedPageIsFatalAndNamed) {
    const Mapping memory = Mapping::anonymous(kBytes);
    const auto start = reinterpret_cast<std::uint64_t>(memory.data());
    UserfaultfdOptions options;
    options.required = Features(static_cast<std::uint64_t>(Feature::poison));
    const Userfaultfd uffd = UserfaultfdFactory(options).create();
    uffd.register_range(start, kBytes, kRegisterMissing);
    ASSERT_EQ(uffd.poison(start + 3 * kPageBytes, kPageBytes).status, FillStatus::done);
    ASSERT_EQ(uffd.zero(start + 4 * kPageBytes, kPageBytes).status, FillStatus::done);

    const RunEnd end = end_of_a_load(kPlace + 3 * kPageBytes + 8, memory);
    EXPECT_EQ(end.kind, RunEndKind::fatal);
    EXPECT_EQ(end.exit.errno_value, kErrnoHwPoison);
    const auto* const fault = std::get_if<MemoryFaultExit>(&end.exit.payload);
    ASSERT_NE(fault, nullptr) << end.exit.describe();
    EXPECT_EQ(fault->guest_address, kPlace + 3 * kPageBytes);
    EXPECT_EQ(fault->size_bytes, kPageBytes);
    EXPECT_EQ(end_of_a_load(kPlace + 4 * kPageBytes, memory).kind, RunEndKind::shutdown) << "its neighbour";
}

}  // namespace
}  // namespace vmthaw
