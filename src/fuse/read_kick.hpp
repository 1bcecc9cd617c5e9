#pragma once

#include <pthread.h>

#include <csignal>

namespace vmthaw {

// Lets another thread end this one's blocking read of /dev/fuse with EINTR: while it lives, SIGRTMIN + 5 is open here,
// with a handler of ours that does nothing and no SA_RESTART. A kick between two reads is lost, so kick again until
// the thread has seen why. Throws StateError where the signal has somebody else's handler.
class ReadKick {
public:
    ReadKick();
    ~ReadKick();
    ReadKick(const ReadKick&) = delete;
    ReadKick& operator=(const ReadKick&) = delete;

    // `thread` has not been joined.
    static void kick(pthread_t thread) noexcept;

private:
    sigset_t previous_{};
};

}  // namespace vmthaw
