// A file of the host in a guest's DAX window: bytes go both ways, and a truncated file ends the run and nothing else.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>

#include "base/error.hpp"
#include "base/unique_fd.hpp"
#include "dax/dax_session.hpp"
#include "dax/window_mapper.hpp"
#include "filesystem/host_files.hpp"
#include "live_guest.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kWindow = 0x1'0000'0000;
constexpr std::uint64_t kChunk = 2U << 20U;
constexpr std::uint64_t kPageBytes = 0x1000;

class DaxWindowOnKvm : public OnKvm {
protected:
    DaxWindowOnKvm() : file_(check_errno(::memfd_create("dax", MFD_CLOEXEC), "memfd_create")) {
        check_errno(::ftruncate(file_.get(), 2 * kChunk), "ftruncate");
        node_ = files_->add_descriptor(file_.duplicate());
    }

    void put(std::uint64_t offset, std::uint32_t value) const {
        ASSERT_EQ(::pwrite(file_.get(), &value, sizeof value, static_cast<off_t>(offset)), 4);
    }
    [[nodiscard]] std::uint32_t file_word(std::uint64_t offset) const {
        std::uint32_t value = 0;
        EXPECT_EQ(::pread(file_.get(), &value, sizeof value, static_cast<off_t>(offset)), 4);
        return value;
    }
    [[nodiscard]] int set_up(std::uint64_t flags) {
        return session_.set_up(node_, {~std::uint64_t{0}, kChunk, kChunk, flags, kChunk});
    }
    // Stores w22 at one place of the window, loads from another; how the run ended.
    RunEnd run(LiveGuest& guest, std::uint64_t store_at, std::uint32_t value, std::uint64_t load_at) {
        guest.vm().set_memory_slot({1, kWindow, window_->host_address(), 4 * kChunk, false, false});
        guest.load(guests::stores_and_loads());
        guest.set(general_register(19), kWindow + load_at);
        guest.set(general_register(20), kWindow + store_at);
        guest.set(general_register(22), value);
        SerialBuses serial;
        LiveRun run(guest, serial.buses);
        return run.wait();
    }

    std::shared_ptr<HostFiles> files_ = std::make_shared<HostFiles>();
    UniqueFd file_;
    std::uint64_t node_ = 0;
    std::shared_ptr<WindowMapper> window_ = std::make_shared<WindowMapper>(kWindow, 4 * kChunk);
    DaxSession session_{files_, window_, {.guest_base = kWindow, .window_bytes = 4 * kChunk}};
};

TEST_F(DaxWindowOnKvm, AGuestReadsAndWritesTheFile) {
    put(kChunk + 3 * kPageBytes, 0x12345678);
    ASSERT_EQ(set_up(kSetupMappingRead | kSetupMappingWrite), 0);
    LiveGuest guest;
    EXPECT_EQ(run(guest, kChunk + 5 * kPageBytes, 0xABCD0001, kChunk + 3 * kPageBytes).kind, RunEndKind::shutdown);
    EXPECT_EQ(guest.get(general_register(21)), 0x12345678U);
    EXPECT_EQ(file_word(kChunk + 5 * kPageBytes), 0xABCD0001U);
}

TEST_F(DaxWindowOnKvm, TruncationLeavesHostSessionAndOtherMappingsAlive) {
    ASSERT_EQ(set_up(kSetupMappingRead | kSetupMappingWrite), 0);
    ASSERT_EQ(session_.set_up(node_, {~std::uint64_t{0}, 0, kChunk, kSetupMappingRead, 0}), 0);
    put(0, 0x600D);
    check_errno(::ftruncate(file_.get(), kChunk + kPageBytes), "ftruncate");
    {
        LiveGuest guest;
        const RunEnd end = run(guest, kChunk, 1, kChunk + kPageBytes);
        EXPECT_NE(end.kind, RunEndKind::shutdown) << "the page is not there";
        const auto past_end = session_.past_end();
        ASSERT_EQ(past_end.size(), 1U);
        EXPECT_EQ(past_end[0].guest_address, kWindow + kChunk + kPageBytes);
    }
    LiveGuest guest;
    EXPECT_EQ(run(guest, kChunk, 2, 0).kind, RunEndKind::shutdown);
    EXPECT_EQ(guest.get(general_register(21)), 0x600DU);
    EXPECT_EQ(file_word(kChunk), 2U);
}

}  // namespace
}  // namespace vmthaw
