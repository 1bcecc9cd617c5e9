#pragma once

#include <pthread.h>

namespace vmthaw {

// The reader-writer lock between reading messages (exclusive) and filling pages (shared) of one userfaultfd.
//
// Why: the thread in madvise(MADV_DONTNEED) goes on as soon as its REMOVE message leaves the kernel. A fill that was
// decided before and runs after would bring the removed page's old bytes back, and nothing can take them away again
// from outside. So nobody reads a message while a fill is between its decision and the end of its ioctl.
// Writers go first: a stream of fills must not starve the events that madvise threads wait for.
class SessionGate {
public:
    SessionGate() noexcept {
        pthread_rwlockattr_t attributes;
        ::pthread_rwlockattr_init(&attributes);
        ::pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        ::pthread_rwlock_init(&lock_, &attributes);
        ::pthread_rwlockattr_destroy(&attributes);
    }
    ~SessionGate() { ::pthread_rwlock_destroy(&lock_); }
    SessionGate(const SessionGate&) = delete;
    SessionGate& operator=(const SessionGate&) = delete;

    // Names as std::unique_lock and std::shared_lock expect them.
    void lock() noexcept {
        // Every worker wakes for every fault and one of them is late. A fill lasts about as long as this spin; a
        // sleeper would cost whoever fills a system call to wake it, in the middle of a fault.
        for (int i = 0; i < kSpins; ++i) {
            if (try_lock()) {
                return;
            }
            pause_processor();
        }
        ::pthread_rwlock_wrlock(&lock_);
    }
    void unlock() noexcept { ::pthread_rwlock_unlock(&lock_); }
    bool try_lock() noexcept { return ::pthread_rwlock_trywrlock(&lock_) == 0; }
    void lock_shared() noexcept { ::pthread_rwlock_rdlock(&lock_); }
    void unlock_shared() noexcept { ::pthread_rwlock_unlock(&lock_); }

private:
    static constexpr int kSpins = 50;  // about 2 us

    static void pause_processor() noexcept {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    pthread_rwlock_t lock_{};
};

}  // namespace vmthaw
