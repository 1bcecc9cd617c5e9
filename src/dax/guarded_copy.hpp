#pragma once

#include <cstddef>
#include <span>

namespace vmthaw {

// Copies from and to memory of this process that may not be there: the kernel does it, and says EFAULT where this
// process would get SIGSEGV or SIGBUS. 0 or a positive errno; what was copied before it stays.
[[nodiscard]] int guarded_read(std::byte* from, std::span<std::byte> out) noexcept;
[[nodiscard]] int guarded_write(std::byte* to, std::span<const std::byte> bytes) noexcept;

// The same without process_vm_readv(2), which a seccomp filter may refuse and user-mode emulators lack: through a pipe.
[[nodiscard]] int guarded_read_by_pipe(std::byte* from, std::span<std::byte> out) noexcept;
[[nodiscard]] int guarded_write_by_pipe(std::byte* to, std::span<const std::byte> bytes) noexcept;

}  // namespace vmthaw
