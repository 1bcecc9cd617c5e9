#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace vmthaw {

// Finds the processor on which a process touches missing memory. Not thread-safe; noexcept; some microseconds a call.
class ToucherFinder {
public:
    // Of a thread by its id, as messages tell it (UFFD_FEATURE_THREAD_ID). -1: no such thread in that process, as with
    // ids of another pid namespace.
    [[nodiscard]] static int find(pid_t pid, pid_t tid) noexcept;
    // Of the thread that faulted or was switched to most since the last call: a vCPU's faults are not counted as its
    // thread's (KVM takes them by get_user_pages), but it sleeps at each. -1: none, the process is gone, or it has too
    // many threads to look through.
    [[nodiscard]] int search(pid_t pid) noexcept;

private:
    struct Seen {
        pid_t tid = 0;
        std::uint64_t activity = 0;
    };

    std::vector<Seen> seen_;  // in the order of the directory
};

}  // namespace vmthaw
