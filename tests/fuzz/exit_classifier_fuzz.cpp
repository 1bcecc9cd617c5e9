#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/i8042.hpp"
#include "devices/serial.hpp"
#include "devices/virtio_mmio.hpp"
#include "fuzz_check.hpp"
#include "machine/dispatcher.hpp"

// Hostile exits, classified and dispatched: the action follows from the exit, the profiles differ only where they may,
// and nothing is written but the answer of a read, where that lies within the mapping.
namespace {

using vmthaw::Exit;
using vmthaw::ExitAction;
using vmthaw::ExitActionKind;
using vmthaw::ExitProfile;
using vmthaw::GuestArch;

std::shared_ptr<vmthaw::Buses> some_buses(GuestArch arch) {
    auto buses = std::make_shared<vmthaw::Buses>(arch);
    vmthaw::StandardDevices devices;
    devices.com1 = std::make_shared<vmthaw::Serial>(std::make_shared<vmthaw::OutputBuffer>(64));
    devices.com2 = std::make_shared<vmthaw::Serial>();
    devices.console = std::make_shared<vmthaw::VirtioMmio>(vmthaw::make_idle_console());
    devices.block = std::make_shared<vmthaw::VirtioMmio>(vmthaw::make_idle_block(1));
    devices.net = std::make_shared<vmthaw::VirtioMmio>(vmthaw::make_idle_net({}));
    if (arch == GuestArch::x86_64) {
        devices.keyboard = std::make_shared<vmthaw::I8042>();
    }
    buses->add_standard(devices);
    return buses;
}

void check_action(ExitProfile profile, const Exit& exit) {
    const ExitAction& action = exit.action;
    FUZZ_CHECK(action.kind == ExitActionKind::fatal || !action.reason);
    FUZZ_CHECK(!action.describe().empty());
    if (std::holds_alternative<vmthaw::MalformedExit>(exit.payload)) {
        FUZZ_CHECK(action.kind == ExitActionKind::fatal);
    } else if (exit.result < 0) {
        const bool again = exit.errno_value == EINTR || exit.errno_value == EAGAIN;
        const auto lasting = profile == ExitProfile::strict ? ExitActionKind::fatal : ExitActionKind::none;
        FUZZ_CHECK(action.kind == (again ? ExitActionKind::continue_ : lasting));
    } else if (exit.reason > vmthaw::kKvmExitLast) {
        FUZZ_CHECK(action.kind == (profile == ExitProfile::strict ? ExitActionKind::fatal : ExitActionKind::none));
    } else if (exit.reason == vmthaw::kKvmExitMmio) {
        FUZZ_CHECK(action.kind == ExitActionKind::continue_);
    }
}

// Which bytes of the mapping an answer may change.
std::span<const std::byte> answer_of(const Exit& exit, std::span<const std::byte> mapping) {
    if (const auto* io = std::get_if<vmthaw::IoExit>(&exit.payload); io != nullptr && !io->is_write) {
        return vmthaw::io_data_of(exit, mapping);
    }
    if (const auto* mmio = std::get_if<vmthaw::MmioExit>(&exit.payload); mmio != nullptr && !mmio->is_write) {
        return mapping.subspan(vmthaw::kKvmRunPayload + offsetof(vmthaw::KvmRunMmio, data), mmio->size_bytes);
    }
    return {};
}

void check_dispatch(ExitProfile profile, GuestArch arch, const Exit& exit, const std::vector<std::byte>& before) {
    const vmthaw::Dispatcher dispatcher(profile, some_buses(arch));
    std::vector<std::byte> after = before;
    const ExitAction action = dispatcher.handle(exit, after);
    FUZZ_CHECK(action == exit.action);
    const auto answer = answer_of(exit, before);
    for (std::size_t i = 0; i < before.size(); ++i) {
        const bool may_change = !answer.empty() && &before[i] >= answer.data() && &before[i] <= &answer.back();
        FUZZ_CHECK(may_change || before[i] == after[i]);
    }
    // A mapping that is cut short is never left, whatever the exit says.
    std::vector<std::byte> cut(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(before.size() / 2));
    static_cast<void>(dispatcher.handle(exit, cut));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const auto arch = input.ConsumeBool() ? GuestArch::x86_64 : GuestArch::aarch64;
    const int result = input.ConsumeBool() ? 0 : -1;
    const int errors[] = {EINTR, EAGAIN, EFAULT, vmthaw::kErrnoHwPoison, ENOEXEC};
    const int errno_value = input.PickValueInArray(errors);
    const std::vector<std::uint8_t> bytes = input.ConsumeRemainingBytes<std::uint8_t>();
    std::vector<std::byte> mapping(bytes.size());
    std::ranges::transform(bytes, mapping.begin(), [](std::uint8_t byte) { return std::byte{byte}; });
    for (const auto profile : {ExitProfile::lenient, ExitProfile::strict}) {
        const Exit exit = vmthaw::classify_exit(profile, arch, result, errno_value, mapping);
        check_action(profile, exit);
        check_dispatch(profile, arch, exit, mapping);
    }
    return 0;
}
