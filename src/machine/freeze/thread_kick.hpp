#pragma once

#include <sys/types.h>

#include <mutex>

namespace vmthaw {

// Sends the kick to the thread that is bound, if there is one. bind() and unbind() on that thread, kick() anywhere; the
// lock keeps a kick from a thread that has ended, whose number may be another's by then.
class ThreadKick {
public:
    void bind() noexcept;
    void unbind() noexcept;
    void kick() noexcept;

private:
    std::mutex mutex_;
    pid_t thread_ = 0;
};

}  // namespace vmthaw
