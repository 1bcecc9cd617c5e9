#include <unistd.h>

#include <csignal>

#include "handover/page_server.hpp"

// VMs that wait for their source: they get it, or their end.
namespace vmthaw {

void PageServer::provide_source(std::uint32_t session, std::shared_ptr<PageSource> source, GuestRuns working_set) {
    guard_.check("PageServer");
    std::optional<Waiting> waiting = take_waiting(session);
    if (!waiting) {
        throw ArgumentError("no session waits for a source under this number: " + std::to_string(session));
    }
    begin_session(std::move(*waiting), std::move(source), working_set ? std::move(working_set) : options_.working_set);
}

void PageServer::refuse_source(std::uint32_t session, const std::string& why) {
    guard_.check("PageServer");
    if (std::optional<Waiting> waiting = take_waiting(session)) {
        refuse_vm(*waiting, session, why);
    }
}

std::optional<PageServer::Waiting> PageServer::take_waiting(std::uint32_t session) {
    const std::lock_guard lock(mutex_);
    auto node = waiting_.extract(session);
    if (node.empty()) {
        return std::nullopt;
    }
    return std::move(node.mapped());
}

// A VM without its memory must not run on with zeros. True when it was killed.
bool PageServer::apply_policy(Userfaultfd& userfaultfd, const PidFd& pid_fd, const std::vector<Region>& regions,
                              FailurePolicy policy) {
    if (policy == FailurePolicy::hang) {
        // Asked for: closing the descriptor would give zeros instead, so it stays open as long as this process lives.
        static_cast<void>(userfaultfd.release().release());
        return false;
    }
    const bool can_kill = pid_fd.is_another() && policy != FailurePolicy::poison;
    if (can_kill) {
        static_cast<void>(pid_fd.send_signal(SIGKILL));
    } else {
        for (const Region& region : regions) {
            static_cast<void>(userfaultfd.poison(region.host_address, region.size));
        }
    }
    return can_kill;
}

void PageServer::refuse_vm(Waiting& waiting, std::uint32_t session, const std::string& why) {
    const bool killed = apply_policy(waiting.handover.userfaultfd, waiting.pid_fd, waiting.handover.regions,
                                     options_.config.failure_policy);
    add_failure(session, waiting.label + ": no page source for it: " + why + (killed ? "; it was killed" : ""),
                "source");
}

}  // namespace vmthaw
