#pragma once

#include <cstdint>

namespace vmthaw {

// Tells whether an object crossed a fork(). pthread_atfork bumps a process-wide generation in the child; an object
// made before it must join nothing, unlink nothing and touch no userfaultfd there.
class ForkGuard {
public:
    ForkGuard() noexcept : generation_(current_generation()) {}

    [[nodiscard]] bool inherited() const noexcept { return generation_ != current_generation(); }
    // Throws ForkedError("what ...") in a forked child. Call it before taking any lock: the lock may be held by a
    // thread that does not exist here.
    void check(const char* what) const;

    [[nodiscard]] static std::uint64_t current_generation() noexcept;

private:
    std::uint64_t generation_;
};

}  // namespace vmthaw
