#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_guard.hpp"
#include "pager/check_pace.hpp"
#include "pager/message_handler.hpp"
#include "pager/page_installer.hpp"
#include "pager/reread_chance.hpp"
#include "pager/runtime.hpp"
#include "pager/session_core.hpp"
#include "pager/session_event.hpp"
#include "pager/toucher_finder.hpp"
#include "pager/working_set_replay.hpp"

namespace vmthaw {

// What a taker gets from PagerSession::detach(): everything to go on serving.
struct DetachedSession {
    UniqueFd fd;
    std::vector<Region> regions;
    std::vector<std::vector<std::uint8_t>> page_states;  // PageState, a byte a page, one vector per region
};

struct SessionOptions {
    Userfaultfd userfaultfd;
    std::vector<Region> regions;  // checked against the source already
    std::shared_ptr<PageSource> source;
    PagerConfig config;
    PidFd pid_fd;     // may be empty
    UniqueFd socket;  // may be empty; kept open, its HUP is watched
    std::string label;
    std::vector<std::uint64_t> prewarm;  // guest addresses, installed before the first fault is read
    std::vector<std::vector<std::uint8_t>> page_states = {};  // as in DetachedSession, by region; empty: all are absent
    GuestRuns working_set = {};                               // may be null; installed as config.working_set_mode says
};

// One VM's memory, served until the VM is gone or somebody says what else becomes of it. It is never closed with pages
// missing: see drain(), kill() and detach(). Made by create(), held by shared_ptr: the runtime's threads keep it alive
// while they work for it. All public functions are thread-safe.
class PagerSession final : public LaneClient, public WorkerClient, public std::enable_shared_from_this<PagerSession> {
public:
    // Throws SystemError (EAGAIN: no thread), ArgumentError, and RegionError for a page size that cannot be served.
    // What is refused leaves `options` whole: who lets go of its descriptor gives the guest zeros for memory.
    [[nodiscard]] static std::shared_ptr<PagerSession> create(SessionOptions&& options, SessionObserver* observer);
    ~PagerSession() override;
    PagerSession(const PagerSession&) = delete;
    PagerSession& operator=(const PagerSession&) = delete;
    PagerSession(PagerSession&&) = delete;
    PagerSession& operator=(PagerSession&&) = delete;

    void start();

    [[nodiscard]] std::uint32_t id() const noexcept { return core_.id; }
    [[nodiscard]] const std::string& label() const noexcept { return label_; }
    [[nodiscard]] pid_t pid() const noexcept { return core_.pid_fd.pid(); }
    [[nodiscard]] SessionState state() const;
    [[nodiscard]] EndReason end_reason() const;
    [[nodiscard]] const PagerCounters& counters() const noexcept { return core_.counters; }
    // Records of its faults: on and off at any time, safe from any thread.
    [[nodiscard]] TraceSlot& trace() noexcept { return core_.trace; }
    [[nodiscard]] const PageSource& source() const noexcept { return *core_.source; }
    [[nodiscard]] std::vector<Region> regions();
    // As they were at the start, by the number that trace records carry; also when the session has ended.
    [[nodiscard]] const std::vector<Region>& first_regions() const noexcept { return first_regions_; }
    [[nodiscard]] std::vector<std::string> failures() const;
    // Pages that the VM still misses although the source has bytes for them. Looks at every page.
    [[nodiscard]] std::uint64_t missing_pages();
    [[nodiscard]] FailurePolicy effective_policy() const noexcept { return policy_; }

    // Fills all that is missing in the background, then unregisters the ranges and ends (drained). When it takes longer
    // than `timeout_ns`, the failure policy is applied to what is missing. Asynchronous.
    void drain(std::uint64_t timeout_ns);
    // SIGKILLs the VM by its pidfd. Throws StateError where there is none or it is this process.
    void kill();
    // Ends serving and hands everything over; lost faults come again for the taker. Waits for fills under way.
    [[nodiscard]] DetachedSession detach();
    // True when it has ended within `timeout`.
    [[nodiscard]] bool wait_closed(std::chrono::milliseconds timeout) const;
    // Forgets the observer: it hears nothing once this has returned.
    void set_observer(SessionObserver* observer);

    // For the runtime's threads.
    [[nodiscard]] int descriptor() const noexcept override { return core_.uffd.fd(); }
    void serve(std::uint16_t worker) noexcept override;
    [[nodiscard]] pid_t process() const noexcept override { return core_.pid_fd ? core_.pid_fd.pid() : -1; }
    [[nodiscard]] int faulting_cpu(bool alone) noexcept override;
    void check() noexcept override;
    void run(LaneTask task, const FillContext& context) noexcept override;

private:
    PagerSession(SessionOptions options, PageTable table, FailurePolicy policy, SessionObserver* observer);

    void begin_serving();
    // Takes all messages that are there, and with `may_reread` those that come meanwhile, while that pays.
    void serve_messages(std::uint16_t handler, bool may_reread) noexcept;
    void answer(MessageBatch& batch, std::uint16_t handler) noexcept;
    void read_later(int errno_value) noexcept;
    void execute(FillTask task, const FillContext& context) noexcept;
    void defer(FillTask task, bool to_source_lane, std::uint64_t delay_ns) noexcept;
    void finish(const FillTask& task) noexcept;
    void release_slot() noexcept;
    void wake_everybody() noexcept;
    void retry_or_fail(FillTask task, const FillFailure& failure) noexcept;
    void fail_page(FillTask task, const std::string& why) noexcept;
    void fail_foreign(std::uint64_t host_address) noexcept;
    [[nodiscard]] bool poison_locked(std::uint64_t host_address, std::uint64_t size) noexcept;
    [[nodiscard]] bool poison(std::uint64_t host_address, std::uint64_t size) noexcept;
    void run_prewarm(const FillContext& context);
    void prewarm_page(FillTask& task, const FillContext& context) noexcept;
    void replay_some(const FillContext& context) noexcept;
    void replay_before(const FillContext& context) noexcept;
    void end_replay() noexcept;
    void populate_some(const FillContext& context) noexcept;
    [[nodiscard]] bool claim_next(FillTask& task) noexcept;
    void finish_drain() noexcept;
    void unregister_all() noexcept;
    void settle_events() noexcept;
    void give_up();
    [[nodiscard]] bool poison_missing() noexcept;
    void kill_vm() noexcept;
    void check_registration() noexcept;
    void adopt_child(MessageBatch::ForkedChild child) noexcept;
    void watch_peer();
    void on_hang_up();
    void add_failure(const std::string& text) noexcept;
    void notify(SessionEventKind kind) noexcept;
    void end(EndReason reason) noexcept;
    void on_detached() noexcept;
    void release_resources() noexcept;
    [[nodiscard]] std::uint64_t retry_delay_ns(std::uint16_t tries) const noexcept;

    Runtime& runtime_;
    SessionCore core_;
    MessageHandler handler_;
    PageInstaller installer_;
    const std::string label_;
    const FailurePolicy policy_;
    std::vector<Region> first_regions_;  // constant after construction
    UniqueFd socket_;
    std::vector<std::uint64_t> prewarm_;
    std::unique_ptr<WorkingSetReplay> replay_;  // null: no working set
    std::atomic<bool> replay_done_{false};
    std::uint16_t replay_waits_ = 0;  // the replaying thread's
    bool replay_has_waited_ = false;  // for the source; the replaying thread's
    std::atomic<std::uint32_t> in_flight_{0};
    std::atomic<bool> overflowed_{false};
    std::atomic<bool> unreadable_{false};  // said once
    RereadChance reread_chance_;
    std::mutex check_mutex_;
    CheckPace check_pace_;  // under it
    std::atomic<bool> first_fault_seen_{false};
    std::atomic<bool> foreign_reported_{false};
    std::atomic<bool> kill_sent_{false};
    std::atomic<bool> given_up_{false};  // draining took too long
    std::uint64_t cursor_region_ = 0;    // of populate: one task at a time
    std::uint64_t cursor_page_ = 0;
    ToucherFinder toucher_finder_;                  // the control thread's
    std::uint64_t followed_faults_ = 0;             // the control thread's
    std::uint64_t drain_timer_ = 0;                 // the control thread's
    std::optional<std::uint64_t> drain_wanted_ns_;  // asked for while preparing

    mutable std::mutex mutex_;
    mutable std::condition_variable changed_;
    SessionState state_ = SessionState::preparing;
    EndReason pending_end_ = EndReason::none;
    EndReason end_reason_ = EndReason::none;
    std::vector<std::string> failures_;
    std::mutex observer_mutex_;
    SessionObserver* observer_;
    ForkGuard guard_;
};

}  // namespace vmthaw
