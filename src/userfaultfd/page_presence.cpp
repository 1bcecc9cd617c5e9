#include "userfaultfd/page_presence.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "base/unique_fd.hpp"

namespace vmthaw {
namespace {

// Documentation/admin-guide/mm/pagemap.rst
constexpr std::uint64_t kPagemapPresent = std::uint64_t{1} << 63U;
constexpr std::uint64_t kPagemapSwapped = std::uint64_t{1} << 62U;

}  // namespace

std::optional<bool> page_is_present(pid_t pid, std::uint64_t host_address) noexcept {
    const int saved = errno;
    std::array<char, 40> path{};
    std::snprintf(path.data(), path.size(), "/proc/%ld/pagemap", static_cast<long>(pid));
    const UniqueFd pagemap(::open(path.data(), O_RDONLY | O_CLOEXEC));
    std::optional<bool> present;
    if (pagemap) {
        const auto page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        std::uint64_t entry = 0;
        const auto offset = static_cast<off_t>(host_address / page_size * sizeof entry);
        if (::pread(pagemap.get(), &entry, sizeof entry, offset) == static_cast<ssize_t>(sizeof entry)) {
            present = (entry & (kPagemapPresent | kPagemapSwapped)) != 0;
        }
    }
    errno = saved;
    return present;
}

}  // namespace vmthaw
