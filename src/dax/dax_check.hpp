#pragma once

#include <cstdint>

#include "dax/dax_config.hpp"
#include "filesystem/lease.hpp"
#include "fuse_protocol/mapping_requests.hpp"

namespace vmthaw {

// What can be known of a request before anything is done: 0, EINVAL (the file range must end within 2^63, too), or
// EROFS (WRITE in a read-only window).
[[nodiscard]] int check_set_up(const DaxConfig& config, const SetupMappingIn& in) noexcept;
[[nodiscard]] int check_remove(const DaxConfig& config, const RemoveMappingOne& one) noexcept;
// What a backend gave: a regular file or memfd (else ENODEV), at a page, with as many bytes as were asked for (else
// EIO).
[[nodiscard]] int check_lease(const Lease& lease, std::uint64_t length_bytes, bool is_regular) noexcept;

}  // namespace vmthaw
