#include <sys/epoll.h>

#include "base/log.hpp"
#include "handover/page_server.hpp"
#include "handover/peer.hpp"

// From a VMM that connects to its whole message, on the control thread.
namespace vmthaw {
namespace {

constexpr std::uint64_t kAcceptPauseNs = 100'000'000;
constexpr std::size_t kMaxConnections = 1024;  // half-done ones

}  // namespace

void PageServer::on_connectable() {
    while (options_.listener) {
        if (connections_.size() >= kMaxConnections) {
            pause_accepting();  // they end by their time-outs; until then the queue would only wake us
            return;
        }
        AcceptOutcome outcome = options_.listener->accept();
        switch (outcome.status) {
            case AcceptStatus::accepted:
                accept_one(std::move(outcome.socket));
                break;
            case AcceptStatus::nothing:
                return;
            case AcceptStatus::out_of_descriptors: {
                add_failure(0, "a VMM waits, but no descriptor is left to accept it; raise RLIMIT_NOFILE",
                            "descriptors");
                pause_accepting();
                return;
            }
            case AcceptStatus::failed:
                add_failure(0, SystemError(outcome.errno_value, "accept4").what(), "socket");
                runtime_.control().unwatch(options_.listener->fd());
                return;
        }
    }
}

void PageServer::pause_accepting() {
    if (!options_.listener) {
        return;
    }
    runtime_.control().unwatch(options_.listener->fd());
    runtime_.control().call_after(kAcceptPauseNs, [self = shared_from_this()] {
        if (self->listening() && self->options_.listener) {
            self->runtime_.control().watch(self->options_.listener->fd(), EPOLLIN,
                                           [self](std::uint32_t) { self->on_connectable(); });
        }
    });
}

void PageServer::accept_one(UniqueFd socket) {
    try {
        const PeerCredentials peer = peer_credentials(socket.get());
        if (options_.required_uid && peer.uid != *options_.required_uid) {
            add_failure(0,
                        "a hand-over from uid " + std::to_string(peer.uid) + " (pid " + std::to_string(peer.pid) +
                            ") was refused: uid " + std::to_string(*options_.required_uid) + " is required",
                        "uid");
            return;
        }
        PidFd pid_fd;
        try {
            pid_fd = open_peer_pidfd(socket.get());
        } catch (const SystemError& error) {
            log_line(LogLevel::warning, "server", std::string("the VMM has no pidfd: ") + error.what());
        }
        const int fd = socket.get();
        Connection connection{HandoverReceiver(std::move(socket)), std::move(pid_fd), peer.pid, 0};
        const std::shared_ptr<PageServer> self = shared_from_this();
        connection.deadline =
            runtime_.control().call_after(options_.handover_timeout_ns, [self, fd] { self->on_deadline(fd); });
        connections_.emplace(fd, std::move(connection));
        runtime_.control().watch(fd, EPOLLIN, [self, fd](std::uint32_t) { self->on_message(fd); });
    } catch (const Error& error) {
        add_failure(0, error.what(), "socket");
    }
}

void PageServer::on_message(int fd) {
    const auto found = connections_.find(fd);
    if (found == connections_.end()) {
        return;
    }
    switch (found->second.receiver.step()) {
        case HandoverStatus::need_more:
            return;
        case HandoverStatus::failed: {
            const HandoverFailure failure = found->second.receiver.failure();
            const pid_t pid = found->second.pid;
            drop_connection(fd);
            add_failure(0, "hand-over from pid " + std::to_string(pid) + ": " + failure.text,
                        failure.field.empty() ? "message" : failure.field);
            return;
        }
        case HandoverStatus::complete:
            break;
    }
    runtime_.control().unwatch(fd);
    runtime_.control().cancel(found->second.deadline);
    Connection connection = std::move(found->second);
    connections_.erase(found);
    complete(std::move(connection));
}

void PageServer::on_deadline(int fd) {
    const auto found = connections_.find(fd);
    if (found == connections_.end()) {
        return;
    }
    const std::string text = "hand-over from pid " + std::to_string(found->second.pid) + ": nothing more came within " +
                             std::to_string(options_.handover_timeout_ns / 1'000'000) +
                             " ms: " + found->second.receiver.pending_problem();
    drop_connection(fd);
    add_failure(0, text, "handover_timeout");
}

void PageServer::drop_connection(int fd) {
    runtime_.control().unwatch(fd);
    if (const auto found = connections_.find(fd); found != connections_.end()) {
        runtime_.control().cancel(found->second.deadline);
        connections_.erase(found);
    }
    // A full house stops accepting; epoll is level-triggered, so the next wait sees who is still in the queue.
}

void PageServer::complete(Connection connection) {
    Waiting waiting{connection.receiver.take(), std::move(connection.pid_fd), "pid " + std::to_string(connection.pid)};
    if (!options_.source) {
        std::uint32_t number = 0;
        {
            const std::lock_guard lock(mutex_);
            number = next_waiting_++;
            waiting_.emplace(number, std::move(waiting));
        }
        push_event(SessionEventKind::needs_source, number);
        return;
    }
    begin_session(std::move(waiting), options_.source, options_.working_set);
}

}  // namespace vmthaw
