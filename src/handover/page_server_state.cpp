// What a PageServer tells about itself. Any thread; the lock is held for the time of copying.
#include "handover/page_server.hpp"

namespace vmthaw {

namespace {

// A session tells whoever waits for its end a moment before it tells us: what both say must agree.
bool has_ended(const std::shared_ptr<PagerSession>& session) { return session->state() == SessionState::closed; }

}  // namespace

std::vector<std::shared_ptr<PagerSession>> PageServer::sessions() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<PagerSession>> sessions;
    for (const auto& [id, session] : sessions_) {
        if (!has_ended(session)) {
            sessions.push_back(session);
        }
    }
    return sessions;
}

std::vector<std::shared_ptr<PagerSession>> PageServer::ended_sessions() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<PagerSession>> ended(ended_.begin(), ended_.end());
    for (const auto& [id, session] : sessions_) {
        if (has_ended(session)) {
            ended.push_back(session);
        }
    }
    return ended;
}

std::vector<std::string> PageServer::waiting() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    std::vector<std::string> labels;
    for (const auto& [number, vm] : waiting_) {
        labels.push_back(vm.label);
    }
    return labels;
}

std::vector<ServerFailure> PageServer::failures() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return {failures_.begin(), failures_.end()};
}

ServerTotals PageServer::totals() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    ServerTotals totals = forgotten_;
    for (const auto& session : ended_) {
        totals.stats += snapshot(session->counters());
    }
    for (const auto& [id, session] : sessions_) {
        totals.stats += snapshot(session->counters());
    }
    return totals;
}

std::uint64_t PageServer::session_count() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return session_count_;
}

std::string PageServer::socket_path() const { return options_.listener ? options_.listener->path() : std::string(); }

bool PageServer::listening() const {
    guard_.check("PageServer");
    const std::lock_guard lock(mutex_);
    return listening_;
}

}  // namespace vmthaw
