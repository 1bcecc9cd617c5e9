#pragma once

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.hpp"
#include "base/thread.hpp"
#include "bindings/wait.hpp"

// GIL: held on entry and on return. The work runs on a C++ thread that never takes it.
namespace vmthaw::bindings {

// Runs `work` on a thread of its own and waits for at most `timeout_s`; Ctrl-C ends the wait. Work that is not done by
// then goes on by itself (it may be blocked in a page that nobody serves): it must own all that it touches.
// Throws what `work` throws, SystemError (ETIMEDOUT), ArgumentError, error_already_set.
inline void call_detached(const char* thread_name, const char* what, double timeout_s, std::function<void()> work) {
    struct Call {
        std::mutex mutex;
        std::condition_variable changed;
        bool done = false;
        std::exception_ptr failure;
    };
    const auto call = std::make_shared<Call>();
    start_thread(thread_name, [call, work = std::move(work)]() mutable {
        std::exception_ptr failure;
        try {
            work();
        } catch (...) {
            failure = std::current_exception();
        }
        work = nullptr;  // lets go of what it owns before the waiter hears of it
        const std::lock_guard lock(call->mutex);
        call->failure = failure;
        call->done = true;
        call->changed.notify_all();
    }).detach();
    const bool done = wait_interruptible(timeout_s, [&](std::chrono::milliseconds slice) {
        std::unique_lock lock(call->mutex);
        return call->changed.wait_for(lock, slice, [&] { return call->done; });
    });
    if (!done) {
        throw SystemError(ETIMEDOUT, what, "a page did not come; is its page server alive?");
    }
    if (call->failure) {
        std::rethrow_exception(call->failure);
    }
}

inline void call_detached(const char* what, double timeout_s, std::function<void()> work) {
    call_detached("vmthaw-copy", what, timeout_s, std::move(work));
}

// The same for work that ends early when its flag is set: it is, as soon as the caller gives up.
template <typename Work>
void call_cancellably(const char* what, double timeout_s, Work work) {
    const auto cancelled = std::make_shared<std::atomic<bool>>(false);
    try {
        call_detached(what, timeout_s, [cancelled, work = std::move(work)] { work(*cancelled); });
    } catch (...) {
        cancelled->store(true);
        throw;
    }
}

}  // namespace vmthaw::bindings
