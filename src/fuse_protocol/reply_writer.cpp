#include "fuse_protocol/reply_writer.hpp"

#include <cerrno>

namespace vmthaw {

std::size_t ReplyWriter::finish(int error, std::size_t elsewhere_bytes) noexcept {
    if (reply_.size() < sizeof(FuseOutHeader)) {
        return 0;
    }
    const int told = error == 0 && overflown_ ? EINVAL : error;
    const std::size_t here = sizeof(FuseOutHeader) + (told == 0 ? body_bytes_ : 0);
    FuseOutHeader header;
    header.len = static_cast<std::uint32_t>(here + (told == 0 ? elsewhere_bytes : 0));
    header.error = -told;
    header.unique = unique_;
    std::memcpy(reply_.data(), &header, sizeof header);
    return here;
}

}  // namespace vmthaw
