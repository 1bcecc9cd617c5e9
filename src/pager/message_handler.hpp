#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "base/unique_fd.hpp"
#include "pager/fill_planner.hpp"
#include "pager/fill_task.hpp"
#include "pager/session_core.hpp"

namespace vmthaw {

static_assert(std::is_trivially_copyable_v<FillTask> && std::is_trivially_destructible_v<FillTask>);

// What one batch of messages came to.
struct MessageBatch {
    static constexpr std::size_t kMessages = 16;
    // Not initialised up front: that would cost as much as a look-up, once a fault.
    [[nodiscard]] const FillTask& task(std::size_t i) const noexcept {
        return *std::launder(reinterpret_cast<const FillTask*>(storage.data()) + i);
    }
    void add(const FillTask& task) noexcept { ::new (storage.data() + task_count++ * sizeof(FillTask)) FillTask(task); }

    alignas(FillTask) std::array<std::byte, kMessages * sizeof(FillTask)> storage;  // NOLINT: see add()
    std::size_t message_count = 0;  // read; less than kMessages means that no more were there
    std::size_t task_count = 0;
    std::array<std::uint64_t, kMessages> foreign;  // faults in no region; NOLINT: as above
    std::size_t foreign_count = 0;
    int errno_value = 0;  // of read(2); EAGAIN when there was nothing

    struct ForkedChild {
        UniqueFd fd;
        PageTable pages;
    };
    std::vector<ForkedChild> forked;  // rare, so it may allocate
};

// Reads a batch of messages and turns it into fills: events first, whatever their place in the batch (a batch can
// return a fault before a remove that is older), then every fault is looked up, joined to a fill under way or planned.
// read() takes the session's gate exclusively from before read(2) until every page is claimed. One at a time.
class MessageHandler {
public:
    explicit MessageHandler(SessionCore& core) noexcept
        : core_(core), planner_(core.config.fill_mode, core.config.fill_bytes / smallest_page(core)) {}

    void read(MessageBatch& batch) noexcept;

private:
    [[nodiscard]] static std::uint64_t smallest_page(const SessionCore& core) noexcept;
    void apply_event(const UffdMessage& message, MessageBatch& batch) noexcept;
    void plan_fault(const UffdMessage& message, std::uint64_t now_ns, MessageBatch& batch) noexcept;
    void plan_absent(const MappedRegion& mapped, std::uint64_t page, FillTask& task) noexcept;

    SessionCore& core_;
    FillPlanner planner_;
    std::array<UffdMessage, MessageBatch::kMessages> messages_{};
};

}  // namespace vmthaw
