#include "pager/runtime.hpp"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <new>

#include "base/error.hpp"
#include "base/thread.hpp"

namespace vmthaw {
namespace {

// Twelve readers beat 128 in published figures; a slow client may hold half of the first eight.
constexpr std::uint32_t kSourceThreads = 4;
constexpr std::uint32_t kMaxSourceThreads = 32;
constexpr std::uint32_t kSourceShare = 4;
// Looking where a VM faults takes some microseconds: often while VMs move, seldom while all stay, hardly ever while
// none faults.
constexpr std::uint64_t kFollowMovingNs = 10'000'000;
constexpr std::uint64_t kFollowStayingNs = 80'000'000;
constexpr std::uint64_t kFollowIdleNs = 1'280'000'000;
constexpr std::size_t kFollowAtOnce = 64;

std::mutex g_mutex;  // NOLINT: never destroyed while threads may still ask
Runtime* g_runtime = nullptr;

}  // namespace

Runtime& Runtime::instance() {
    static std::atomic<std::uint64_t> generation{ForkGuard::current_generation()};
    if (generation.load() != ForkGuard::current_generation()) {
        // A forked child: the parent's runtime is left alone (its threads are not here, its mutex may be locked).
        new (&g_mutex) std::mutex;
        g_runtime = nullptr;
        generation.store(ForkGuard::current_generation());
    }
    const std::lock_guard lock(g_mutex);
    if (g_runtime == nullptr) {
        g_runtime = new Runtime;
    }
    return *g_runtime;
}

void Runtime::shutdown() noexcept {
    if (g_runtime != nullptr && !g_runtime->guard_.inherited()) {
        const std::lock_guard lock(g_mutex);
        delete g_runtime;
        g_runtime = nullptr;
    }
}

Runtime::Runtime() : control_(std::make_unique<ControlLoop>()) {
    std::uint16_t number = 0;
    for (const int cpu : usable_cpus()) {
        workers_.push_back(std::make_unique<Worker>(number++, cpu));
    }
    retry_lane_ = std::make_unique<TaskLane>(TaskLane::Options{"retry", 1, 1, 1, false});
    source_lane_ =
        std::make_unique<TaskLane>(TaskLane::Options{"source", kSourceThreads, kMaxSourceThreads, kSourceShare, true});
}

// Control first: it starts nothing new then. Lanes before workers: a lane may still ask a worker to let go.
Runtime::~Runtime() {
    control_->stop();
    source_lane_->stop();
    retry_lane_->stop();
    workers_.clear();
}

void Runtime::attach(const std::shared_ptr<WorkerClient>& client, Placement placement, int cpu,
                     std::uint64_t poll_interval_ns, Watch watch) {
    const std::lock_guard lock(mutex_);
    Seat seat;
    seat.watch = watch;
    seat.client = client;
    seat.placement = placement;
    seat.poll_interval_ns = poll_interval_ns;
    seat.at_worker.assign(workers_.size(), false);
    seat.home = next_home_++ % workers_.size();
    if (placement == Placement::pinned) {
        for (std::size_t i = 0; i < workers_.size(); ++i) {
            if (workers_[i]->cpu() == cpu) {
                seat.home = i;
            }
        }
    }
    seats_[client.get()] = std::move(seat);
    rebalance();
    schedule_check();
}

void Runtime::watch(const WorkerClient* client, Watch watch) {
    const std::lock_guard lock(mutex_);
    if (const auto found = seats_.find(client); found != seats_.end() && found->second.watch != watch) {
        found->second.watch = watch;
        place(found->second);
    }
}

void Runtime::schedule_check() {
    std::uint64_t interval_ns = 0;
    for (const auto& [client, seat] : seats_) {
        if (seat.poll_interval_ns > 0 && (interval_ns == 0 || seat.poll_interval_ns < interval_ns)) {
            interval_ns = seat.poll_interval_ns;
        }
    }
    if (interval_ns > 0 && !check_scheduled_) {
        check_scheduled_ = true;
        control_->post([this, interval_ns] { control_->call_after(interval_ns, [this] { check_next(); }); });
    }
}

void Runtime::check_next() {
    const std::lock_guard lock(mutex_);
    check_scheduled_ = false;
    if (!seats_.empty()) {
        const auto next = std::next(seats_.begin(), static_cast<std::ptrdiff_t>(next_check_++ % seats_.size()));
        if (next->second.poll_interval_ns > 0) {
            next->second.client->check();
        }
        schedule_check();
    }
}

void Runtime::schedule_follow(std::uint64_t delay_ns) {
    if (!local_ && !follow_scheduled_) {
        follow_scheduled_ = true;
        follow_delay_ns_ = delay_ns;
        control_->post([this, delay_ns] { control_->call_after(delay_ns, [this] { follow(); }); });
    }
}

std::vector<std::pair<std::shared_ptr<WorkerClient>, bool>> Runtime::next_to_follow() {
    std::unordered_map<pid_t, std::size_t> sharers;
    for (const auto& [client, seat] : seats_) {
        ++sharers[client->process()];
    }
    std::vector<std::pair<std::shared_ptr<WorkerClient>, bool>> chosen;
    const std::size_t count = seats_.size();
    for (std::size_t i = 0; i < std::min(count, kFollowAtOnce); ++i) {
        const Seat& seat = std::next(seats_.begin(), static_cast<std::ptrdiff_t>(next_follow_++ % count))->second;
        if (seat.placement == Placement::automatic) {
            chosen.emplace_back(seat.client, sharers[seat.client->process()] == 1);
        }
    }
    return chosen;
}

void Runtime::follow() {
    std::vector<std::pair<std::shared_ptr<WorkerClient>, bool>> chosen;
    {
        const std::lock_guard lock(mutex_);
        follow_scheduled_ = false;
        if (local_) {
            return;
        }
        chosen = next_to_follow();
    }
    bool faulting = false;
    bool moved = false;
    for (const auto& [client, alone] : chosen) {
        const int cpu = client->faulting_cpu(alone);
        const auto found = std::find_if(workers_.begin(), workers_.end(),
                                        [cpu](const std::unique_ptr<Worker>& worker) { return worker->cpu() == cpu; });
        if (found == workers_.end()) {
            continue;
        }
        faulting = true;
        const std::lock_guard lock(mutex_);
        const auto seat = seats_.find(client.get());
        if (seat == seats_.end() || local_) {
            continue;
        }
        // Twice, or every thread that only passes by would be followed.
        const auto worker = static_cast<std::size_t>(found - workers_.begin());
        const bool stays = seat->second.home == worker;
        if (!stays && seat->second.seen_at == worker) {
            seat->second.home = worker;
            place(seat->second);
        }
        moved = moved || !stays;
        seat->second.seen_at = worker;
    }
    const std::lock_guard lock(mutex_);
    schedule_follow(moved ? kFollowMovingNs
                          : std::min(faulting ? kFollowStayingNs : kFollowIdleNs, follow_delay_ns_ * 2));
}

void Runtime::rebalance() {
    const bool local = seats_.size() <= workers_.size();
    const bool changed = local != local_;
    local_ = local;
    for (auto& [client, seat] : seats_) {
        const bool is_new = std::none_of(seat.at_worker.begin(), seat.at_worker.end(), [](bool at) { return at; });
        if (is_new || (changed && (seat.placement == Placement::automatic || seat.watch == Watch::nobody))) {
            place(seat);
        }
    }
    schedule_follow(kFollowMovingNs);
}

void Runtime::place(Seat& seat) {
    const bool nowhere = seat.watch == Watch::nobody && local_;
    const bool everywhere = seat.watch == Watch::usual &&
                            (seat.placement == Placement::local || (seat.placement == Placement::automatic && local_));
    for (std::size_t i = 0; i < workers_.size(); ++i) {
        const bool wanted = !nowhere && (everywhere || i == seat.home);
        if (wanted && !seat.at_worker[i]) {
            workers_[i]->attach(seat.client);
        } else if (!wanted && seat.at_worker[i]) {
            workers_[i]->detach(seat.client.get(), {});
        }
        seat.at_worker[i] = wanted;
    }
}

void Runtime::detach(const WorkerClient* client, std::function<void()> done) {
    const std::lock_guard lock(mutex_);
    const auto found = seats_.find(client);
    if (found == seats_.end()) {
        control_->post(std::move(done));
        return;
    }
    seats_.erase(found);
    // All workers are asked, also those it was taken from a moment ago: their commands come in order.
    auto left = std::make_shared<std::atomic<std::size_t>>(workers_.size());
    auto finish = std::make_shared<std::function<void()>>(std::move(done));
    for (const std::unique_ptr<Worker>& worker : workers_) {
        worker->detach(client, [left, finish] {
            if (left->fetch_sub(1) == 1) {
                (*finish)();
            }
        });
    }
    rebalance();
}

std::size_t Runtime::clients() {
    const std::lock_guard lock(mutex_);
    return seats_.size();
}

std::size_t Runtime::threads() const { return 1 + workers_.size() + retry_lane_->threads() + source_lane_->threads(); }

}  // namespace vmthaw
