#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fork_guard.hpp"
#include "pager/control_loop.hpp"
#include "pager/pager_config.hpp"
#include "pager/task_lane.hpp"
#include "pager/worker.hpp"

namespace vmthaw {

// Who waits for a client's messages: the workers its placement names; one worker, because somebody works for the client
// on the other processors meanwhile; or nobody, because somebody reads them between pieces of such work (one worker all
// the same while there are more clients than processors, where that somebody may not get to run for long).
enum class Watch : std::uint8_t { usual, one, nobody };

// The threads that all page servers of a process share: one pinned worker per processor, the control thread, one
// thread for parked retries and a few for blocking sources. 1000 servers use the same ones as one.
//
// Placement: a fault answered on the faulter's own processor costs half of one answered elsewhere. So while there are
// no more sessions than processors every worker waits on every descriptor and the local one wins; with more, each
// descriptor has one worker, and moves to the one on whose processor its VM faults. Thread-safe.
class Runtime {
public:
    // The process's one runtime; threads start at first use. A forked child gets its own. Throws SystemError.
    [[nodiscard]] static Runtime& instance();
    // Ends all threads, in order; for interpreter exit. instance() would start anew.
    static void shutdown() noexcept;

    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    [[nodiscard]] ControlLoop& control() noexcept { return *control_; }
    [[nodiscard]] TaskLane& retry_lane() noexcept { return *retry_lane_; }
    [[nodiscard]] TaskLane& source_lane() noexcept { return *source_lane_; }

    // Every `poll_interval_ns` (of the most eager one; 0: never) one client in turn gets check().
    void attach(const std::shared_ptr<WorkerClient>& client, Placement placement, int cpu,
                std::uint64_t poll_interval_ns, Watch watch = Watch::usual);
    // Asynchronous: a worker may serve once more. A message that came while nobody watched is told to whoever watches
    // next. Nothing happens to a client that is not attached.
    void watch(const WorkerClient* client, Watch watch);
    // `done` runs on some worker's thread once none of them will touch the client again.
    void detach(const WorkerClient* client, std::function<void()> done);
    [[nodiscard]] std::size_t threads() const;
    [[nodiscard]] std::size_t clients();  // that are attached

private:
    struct Seat {
        std::shared_ptr<WorkerClient> client;
        Placement placement = Placement::automatic;
        std::size_t home = 0;  // the worker that has it when sharded
        std::uint64_t poll_interval_ns = 0;
        std::vector<bool> at_worker;  // where it is attached
        std::size_t seen_at = 0;      // the worker on whose processor it faulted when last looked at
        Watch watch = Watch::usual;
    };

    Runtime();
    void place(Seat& seat);
    void rebalance();
    void schedule_check();
    void check_next();
    void schedule_follow(std::uint64_t delay_ns);
    void follow();
    [[nodiscard]] std::vector<std::pair<std::shared_ptr<WorkerClient>, bool>> next_to_follow();

    std::unique_ptr<ControlLoop> control_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::unique_ptr<TaskLane> retry_lane_;
    std::unique_ptr<TaskLane> source_lane_;
    std::mutex mutex_;
    std::unordered_map<const WorkerClient*, Seat> seats_;
    std::size_t next_home_ = 0;
    bool local_ = true;
    bool check_scheduled_ = false;
    std::size_t next_check_ = 0;
    bool follow_scheduled_ = false;
    std::uint64_t follow_delay_ns_ = 0;
    std::size_t next_follow_ = 0;
    ForkGuard guard_;
};

}  // namespace vmthaw
