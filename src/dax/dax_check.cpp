#include "dax/dax_check.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/page.hpp"

namespace vmthaw {
namespace {

constexpr std::uint64_t kLastFileOffset = std::numeric_limits<std::int64_t>::max();

bool is_granule(std::uint64_t bytes) noexcept { return bytes == 4096 || bytes == 16384 || bytes == 65536; }

int check_window(const DaxConfig& config, std::uint64_t offset, std::uint64_t length) noexcept {
    if (length == 0 || (offset | length) % config.granule_bytes != 0) {
        return EINVAL;
    }
    const bool fits = offset <= config.window_bytes && length <= config.window_bytes - offset &&
                      offset <= std::numeric_limits<std::uint64_t>::max() - config.guest_base;
    return fits ? 0 : EINVAL;
}

}  // namespace

DaxConfig checked(DaxConfig config) {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    if (config.granule_bytes == 0) {
        config.granule_bytes = page;
    }
    if (!is_granule(config.granule_bytes) || config.granule_bytes < page) {
        throw ArgumentError("granule of " + std::to_string(config.granule_bytes) +
                            " bytes: it must be 4096, 16384 or 65536, and the host's page at least");
    }
    if (config.window_bytes == 0 || config.window_bytes % config.granule_bytes != 0) {
        throw ArgumentError("window of " + std::to_string(config.window_bytes) + " bytes: it must be a multiple of " +
                            std::to_string(config.granule_bytes) + ", and not 0");
    }
    if (config.guest_base % config.granule_bytes != 0) {
        throw ArgumentError("guest base " + hex(config.guest_base) + " is not a multiple of the granule");
    }
    if (config.guest_base > std::numeric_limits<std::uint64_t>::max() - config.window_bytes) {
        throw ArgumentError("guest base " + hex(config.guest_base) + " and a window of " +
                            std::to_string(config.window_bytes) + " bytes end past 2^64");
    }
    if (config.quota_bytes % config.granule_bytes != 0) {
        throw ArgumentError("quota of " + std::to_string(config.quota_bytes) + " bytes: it must be a multiple of " +
                            std::to_string(config.granule_bytes));
    }
    if (config.most_mappings == 0) {
        throw ArgumentError("most_mappings is 0");
    }
    return config;
}

int check_set_up(const DaxConfig& config, const SetupMappingIn& in) noexcept {
    if (in.flags == 0 || (in.flags & ~(kSetupMappingRead | kSetupMappingWrite)) != 0 ||
        in.file_offset % config.granule_bytes != 0) {
        return EINVAL;
    }
    if (const int error = check_window(config, in.window_offset, in.length_bytes); error != 0) {
        return error;
    }
    if (in.file_offset > kLastFileOffset || in.length_bytes > kLastFileOffset - in.file_offset) {
        return EINVAL;
    }
    return config.read_only && (in.flags & kSetupMappingWrite) != 0 ? EROFS : 0;
}

int check_remove(const DaxConfig& config, const RemoveMappingOne& one) noexcept {
    return check_window(config, one.window_offset, one.length_bytes);
}

int check_lease(const Lease& lease, std::uint64_t length_bytes, bool is_regular) noexcept {
    const bool fits = lease.fd >= 0 && lease.offset_bytes % kPageBytes == 0 && lease.offset_bytes <= kLastFileOffset &&
                      length_bytes <= kLastFileOffset - lease.offset_bytes && lease.length_bytes >= length_bytes;
    if (!fits || is_regular) {
        return fits ? 0 : EIO;
    }
    struct stat found{};
    if (::fstat(lease.fd, &found) != 0) {
        return EIO;
    }
    return S_ISREG(found.st_mode) ? 0 : ENODEV;
}

}  // namespace vmthaw
