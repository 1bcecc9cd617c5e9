#include "fuse_protocol/dirent_packer.hpp"

#include <cstring>

#include "fuse_protocol/request_reader.hpp"

namespace vmthaw {

bool DirentPacker::add_record(std::span<const std::byte> head, std::string_view name) noexcept {
    if (name.empty() || name.size() > kFuseNameMax_bytes) {
        return false;
    }
    const std::size_t plain = head.size() + name.size();
    const std::size_t padded = (plain + 7) / 8 * 8;
    if (padded > space_.size() - used_bytes_) {
        return false;
    }
    std::byte* at = space_.data() + used_bytes_;
    std::memcpy(at, head.data(), head.size());
    std::memcpy(at + head.size(), name.data(), name.size());
    std::memset(at + plain, 0, padded - plain);
    used_bytes_ += padded;
    return true;
}

bool DirentPacker::add(std::string_view name, const FuseDirent& dirent) noexcept {
    FuseDirent head = dirent;
    head.namelen = static_cast<std::uint32_t>(name.size());
    return add_record(std::as_bytes(std::span(&head, 1)), name);
}

bool DirentPacker::add_plus(std::string_view name, const FuseEntryOut& entry, const FuseDirent& dirent) noexcept {
    FuseDirentPlus head{entry, dirent};
    head.dirent.namelen = static_cast<std::uint32_t>(name.size());
    return add_record(std::as_bytes(std::span(&head, 1)), name);
}

}  // namespace vmthaw
