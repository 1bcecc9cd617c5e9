#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_fd.hpp"
#include "base/fork_guard.hpp"
#include "base/ring.hpp"
#include "base/unix_listener.hpp"
#include "handover/handover_receiver.hpp"
#include "pager/memory_layout.hpp"
#include "pager/pager_session.hpp"

namespace vmthaw {

struct PageServerOptions {
    std::optional<UnixListener> listener;  // none: only adopted sessions
    std::shared_ptr<PageSource> source;    // null: each session waits for provide_source()
    PagerConfig config;
    MemoryLayout layout = MemoryLayout::host();
    std::optional<uid_t> required_uid;  // of the peer, by SO_PEERCRED
    std::uint64_t handover_timeout_ns = 5'000'000'000;
    std::vector<std::uint64_t> prewarm;  // guest addresses
    GuestRuns working_set = {};          // of every session that is not given its own; may be null
};

struct ServerEvent {
    std::uint64_t t_ns;
    std::uint32_t session;
    SessionEventKind kind;
};

// A hand-over that was refused, or a session that failed.
struct ServerFailure {
    std::uint64_t t_ns;
    std::uint32_t session;  // 0: it never became one
    std::string text;
    std::string field;
};

// Since the start, never decreasing: sums over all sessions that ever were.
struct ServerTotals {
    PagerStats stats;
    std::uint64_t refused = 0;  // hand-overs
    std::uint64_t failed = 0;   // sessions
};

// Listens for VMMs and serves every one of them until it ends. Uses the threads of the Runtime, has none itself.
// Held by shared_ptr. All public functions are thread-safe; none but wait_*() blocks for longer than a lock.
class PageServer final : public SessionObserver, public std::enable_shared_from_this<PageServer> {
public:
    [[nodiscard]] static std::shared_ptr<PageServer> create(PageServerOptions options);
    ~PageServer() override;
    PageServer(const PageServer&) = delete;
    PageServer& operator=(const PageServer&) = delete;
    PageServer(PageServer&&) = delete;
    PageServer& operator=(PageServer&&) = delete;

    void start();  // listens; throws SystemError
    // A descriptor that came another way. Regions are checked here. Throws what a bad hand-over would be refused for.
    std::shared_ptr<PagerSession> adopt(Userfaultfd userfaultfd, std::vector<Region> regions,
                                        std::shared_ptr<PageSource> source, PidFd pid_fd, std::string label,
                                        std::vector<std::vector<std::uint8_t>> page_states = {});
    // Answers a needs_source event; `working_set` (may be null) takes the place of the options'. Throws ArgumentError
    // for an unknown session.
    void provide_source(std::uint32_t session, std::shared_ptr<PageSource> source, GuestRuns working_set = {});
    // The same, when there is none to give: the failure policy decides about the VM.
    void refuse_source(std::uint32_t session, const std::string& why);

    [[nodiscard]] std::vector<std::shared_ptr<PagerSession>> sessions() const;        // that have not ended
    [[nodiscard]] std::vector<std::shared_ptr<PagerSession>> ended_sessions() const;  // the last 64
    [[nodiscard]] std::vector<std::string> waiting() const;     // labels of VMs that wait for provide_source()
    [[nodiscard]] std::vector<ServerFailure> failures() const;  // the last 256
    [[nodiscard]] std::uint64_t session_count() const;          // that ever came
    [[nodiscard]] ServerTotals totals() const;
    [[nodiscard]] std::string socket_path() const;

    // Becomes readable with events; never blocks.
    [[nodiscard]] int event_fd() const noexcept { return events_ready_.fd(); }
    [[nodiscard]] std::vector<ServerEvent> take_events();

    // True when a session that is not preparing came, or the server stopped listening, within `timeout`.
    [[nodiscard]] bool wait_ready(std::chrono::milliseconds timeout);
    // True when a session came and all have ended, or the server stopped and all have ended.
    [[nodiscard]] bool wait_ended(std::chrono::milliseconds timeout);

    // Stops accepting, closes half-done hand-overs; sessions go on. Idempotent, at any time.
    void stop_listening();
    [[nodiscard]] bool listening() const;
    // Nobody hears of sessions any more. Call after the sessions have ended.
    void close();

    // Records of the faults of every session, now and later, in rings of `records` (1 to 2^26). Throws ArgumentError.
    void enable_trace(std::uint32_t records);
    void disable_trace();

    void on_session_event(PagerSession& session, SessionEventKind kind) noexcept override;
    void on_session_forked(PagerSession& parent, std::shared_ptr<PagerSession> child) noexcept override;

private:
    struct Connection {
        HandoverReceiver receiver;
        PidFd pid_fd;
        pid_t pid = -1;
        ControlLoop::TimerId deadline = 0;
    };
    struct Waiting {  // for its source
        Handover handover;
        PidFd pid_fd;
        std::string label;
    };

    explicit PageServer(PageServerOptions options);
    void on_connectable();
    void pause_accepting();
    void accept_one(UniqueFd socket);
    void on_message(int fd);
    void on_deadline(int fd);
    void drop_connection(int fd);
    void complete(Connection connection);
    [[nodiscard]] std::optional<Waiting> take_waiting(std::uint32_t session);
    void refuse_vm(Waiting& waiting, std::uint32_t session, const std::string& why);
    static bool apply_policy(Userfaultfd& userfaultfd, const PidFd& pid_fd, const std::vector<Region>& regions,
                             FailurePolicy policy);
    void begin_session(Waiting waiting, std::shared_ptr<PageSource> source, GuestRuns working_set);
    std::shared_ptr<PagerSession> begin(SessionOptions&& options);
    void trace_session(PagerSession& session) const;
    void add_session(const std::shared_ptr<PagerSession>& session);
    void add_failure(std::uint32_t session, const std::string& text, const std::string& field);
    void keep_failure(ServerFailure failure);  // with mutex_ held
    void push_event(SessionEventKind kind, std::uint32_t session) noexcept;

    Runtime& runtime_;
    PageServerOptions options_;
    std::map<int, Connection> connections_;  // the control thread's
    Ring<ServerEvent> events_{4096};
    EventFd events_ready_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::map<std::uint32_t, std::shared_ptr<PagerSession>> sessions_;
    std::map<std::uint32_t, Waiting> waiting_;
    std::deque<std::shared_ptr<PagerSession>> ended_;
    std::deque<ServerFailure> failures_;
    ServerTotals forgotten_;  // of sessions that `ended_` has dropped; failures are counted as they come
    std::uint64_t session_count_ = 0;
    std::uint32_t trace_records_ = 0;         // of each session's ring; 0: none
    std::uint32_t next_waiting_ = 1U << 31U;  // never the number of a session
    bool listening_ = false;
    bool ready_ = false;
    ForkGuard guard_;
};

}  // namespace vmthaw
