#pragma once

#include <cstddef>

namespace vmthaw {

// 2 MiB of zeros to copy from: hugetlb has no ZEROPAGE. Never written, so it stays the kernel's one zero page. Null
// when it could not be mapped: a COPY from there fails with EFAULT.
[[nodiscard]] const std::byte* huge_zeros() noexcept;

}  // namespace vmthaw
