#include "handover/page_server.hpp"

// Tracing of all sessions of a server, those that come later included.
namespace vmthaw {

void PageServer::enable_trace(std::uint32_t records) {
    guard_.check("PageServer");
    check_trace_records(records);
    const std::lock_guard lock(mutex_);
    trace_records_ = records;
    for (const auto& [id, session] : sessions_) {
        session->trace().enable(records);
    }
}

void PageServer::disable_trace() {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    trace_records_ = 0;
    for (const auto& [id, session] : sessions_) {
        session->trace().disable();
    }
}

void PageServer::trace_session(PagerSession& session) const {
    if (trace_records_ > 0) {
        session.trace().enable(trace_records_);
    } else {
        session.trace().disable();  // a forked child comes with its parent's configuration
    }
}

}  // namespace vmthaw
