#pragma once

#include <cstdint>
#include <memory>

namespace vmthaw {

class PagerSession;

enum class SessionEventKind : std::uint8_t { connected, needs_source, first_fault, failed, closed };

enum class SessionState : std::uint8_t {
    preparing,  // pre-warming
    serving,
    draining,  // filling all that is missing
    closed,
};

// How a session ended.
enum class EndReason : std::uint8_t {
    none,       // it has not
    vm_exited,  // complete: nobody is left to miss a page
    drained,    // every page that the source has is in the VM, and the ranges are unregistered
    killed,     // by our SIGKILL
    detached,   // somebody else has the descriptor now
    failed,     // see the session's failures
};

// Hears of a session's events, on any thread. Must not block or throw. Outlives its sessions or is forgotten by them
// (PagerSession::set_observer).
class SessionObserver {
public:
    SessionObserver() = default;
    SessionObserver(const SessionObserver&) = delete;
    SessionObserver& operator=(const SessionObserver&) = delete;
    SessionObserver(SessionObserver&&) = delete;
    SessionObserver& operator=(SessionObserver&&) = delete;
    virtual ~SessionObserver() = default;
    virtual void on_session_event(PagerSession& session, SessionEventKind kind) noexcept = 0;
    // A FORK event: the child of a VMM, with pages and descriptor of its own.
    virtual void on_session_forked(PagerSession& parent, std::shared_ptr<PagerSession> child) noexcept = 0;
};

}  // namespace vmthaw
