#pragma once

#include <span>
#include <string_view>

namespace vmthaw {

// Writes all of `text` to a connected UNIX stream socket; the descriptors (SCM_RIGHTS) go with its first byte. Blocks
// as the socket does. Throws SystemError.
void send_descriptors(int socket, std::string_view text, std::span<const int> descriptors);

}  // namespace vmthaw
