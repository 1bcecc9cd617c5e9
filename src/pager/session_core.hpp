#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/pid_fd.hpp"
#include "pager/page_table.hpp"
#include "pager/pager_config.hpp"
#include "pager/pager_stats.hpp"
#include "pager/session_gate.hpp"
#include "source/page_source.hpp"
#include "trace/trace_slot.hpp"
#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw {

// What the parts of one session share: the descriptor, the pages and who may touch them when. `table` and reading
// from `uffd` need the gate (see SessionGate); the rest is atomic or constant.
struct SessionCore {
    SessionCore(Userfaultfd descriptor, PageTable pages, std::shared_ptr<PageSource> page_source, PagerConfig settings,
                PidFd process)
        : uffd(std::move(descriptor)),
          table(std::move(pages)),
          source(std::move(page_source)),
          config(settings),
          pid_fd(std::move(process)),
          trace(settings.trace_records) {}

    Userfaultfd uffd;
    PageTable table;
    std::shared_ptr<PageSource> source;
    PagerConfig config;
    PidFd pid_fd;
    TraceSlot trace;
    SessionGate gate;
    PagerCounters counters;
    std::uint32_t id = 0;
    std::atomic<bool> closing{false};
    std::atomic<std::uint32_t> last_tid{0};  // who faulted last, 0 without UFFD_FEATURE_THREAD_ID
};

}  // namespace vmthaw
