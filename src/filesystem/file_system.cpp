#include "filesystem/file_system.hpp"

namespace vmthaw {

int FileSystem::init(InitTerms& /*terms*/) noexcept { return 0; }

int FileSystem::interrupt(std::uint64_t /*unique*/) noexcept { return ENOSYS; }

int FileSystem::lookup(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                       NodeEntry& /*entry*/) noexcept {
    return ENOSYS;
}

int FileSystem::getattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                        NodeAttributes& /*attributes*/) noexcept {
    return ENOSYS;
}

int FileSystem::setattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseSetattrIn& /*change*/,
                        NodeAttributes& /*attributes*/) noexcept {
    return ENOSYS;
}

int FileSystem::statx(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                      std::uint32_t /*flags*/, std::uint32_t /*mask*/, FuseStatx& /*stat*/) noexcept {
    return ENOSYS;
}

int FileSystem::access(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint32_t /*mask*/) noexcept {
    return ENOSYS;
}

int FileSystem::readlink(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::string& /*target*/) noexcept {
    return ENOSYS;
}

int FileSystem::symlink(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                        std::string_view /*target*/, NodeEntry& /*entry*/) noexcept {
    return ENOSYS;
}

int FileSystem::mknod(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                      const FuseMknodIn& /*request*/, NodeEntry& /*entry*/) noexcept {
    return ENOSYS;
}

int FileSystem::mkdir(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                      const FuseMkdirIn& /*request*/, NodeEntry& /*entry*/) noexcept {
    return ENOSYS;
}

int FileSystem::unlink(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/) noexcept {
    return ENOSYS;
}

int FileSystem::rmdir(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/) noexcept {
    return ENOSYS;
}

int FileSystem::rename(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                       std::uint64_t /*new_parent*/, std::string_view /*new_name*/, std::uint32_t /*flags*/) noexcept {
    return ENOSYS;
}

int FileSystem::link(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*new_parent*/,
                     std::string_view /*new_name*/, NodeEntry& /*entry*/) noexcept {
    return ENOSYS;
}

int FileSystem::open(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseOpenIn& /*request*/,
                     OpenedFile& /*opened*/) noexcept {
    return ENOSYS;
}

int FileSystem::create(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, std::string_view /*name*/,
                       const FuseCreateIn& /*request*/, NodeEntry& /*entry*/, OpenedFile& /*opened*/) noexcept {
    return ENOSYS;
}

int FileSystem::tmpfile(const FuseCaller& /*caller*/, std::uint64_t /*parent*/, const FuseCreateIn& /*request*/,
                        NodeEntry& /*entry*/, OpenedFile& /*opened*/) noexcept {
    return ENOSYS;
}

int FileSystem::read(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseReadIn& /*request*/,
                     ReadAnswer& /*answer*/) noexcept {
    return ENOSYS;
}

int FileSystem::write(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseWriteIn& /*request*/,
                      std::span<const std::byte> /*data*/, std::uint32_t& /*written_bytes*/) noexcept {
    return ENOSYS;
}

int FileSystem::flush(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseFlushIn& /*request*/) noexcept {
    return ENOSYS;
}

int FileSystem::release(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                        const FuseReleaseIn& /*request*/) noexcept {
    return ENOSYS;
}

int FileSystem::fsync(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                      bool /*data_only*/) noexcept {
    return ENOSYS;
}

int FileSystem::fallocate(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                          const FuseFallocateIn& /*request*/) noexcept {
    return ENOSYS;
}

int FileSystem::lseek(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseLseekIn& /*request*/,
                      std::uint64_t& /*offset_bytes*/) noexcept {
    return ENOSYS;
}

int FileSystem::copy_file_range(const FuseCaller& /*caller*/, std::uint64_t /*node*/,
                                const FuseCopyFileRangeIn& /*request*/, std::uint64_t& /*copied_bytes*/) noexcept {
    return ENOSYS;
}

int FileSystem::opendir(const FuseCaller& /*caller*/, std::uint64_t /*node*/, const FuseOpenIn& /*request*/,
                        OpenedFile& /*opened*/) noexcept {
    return ENOSYS;
}

int FileSystem::readdir(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                        std::uint64_t /*offset*/, bool /*plus*/, DirectoryWriter& /*writer*/) noexcept {
    return ENOSYS;
}

int FileSystem::releasedir(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/) noexcept {
    return ENOSYS;
}

int FileSystem::fsyncdir(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::uint64_t /*handle*/,
                         bool /*data_only*/) noexcept {
    return ENOSYS;
}

int FileSystem::setxattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::string_view /*name*/,
                         std::span<const std::byte> /*value*/, std::uint32_t /*flags*/) noexcept {
    return ENOSYS;
}

int FileSystem::getxattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::string_view /*name*/,
                         std::string& /*value*/) noexcept {
    return ENOSYS;
}

int FileSystem::listxattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::string& /*names*/) noexcept {
    return ENOSYS;
}

int FileSystem::removexattr(const FuseCaller& /*caller*/, std::uint64_t /*node*/, std::string_view /*name*/) noexcept {
    return ENOSYS;
}

int FileSystem::statfs(const FuseCaller& /*caller*/, std::uint64_t /*node*/, FuseStatfs& /*statfs*/) noexcept {
    return ENOSYS;
}

int FileSystem::syncfs(const FuseCaller& /*caller*/, std::uint64_t /*node*/) noexcept { return ENOSYS; }

int FileSystem::dax_map(std::uint64_t /*node*/, std::uint64_t /*handle*/, std::uint64_t /*offset_bytes*/,
                        std::uint64_t /*length_bytes*/, std::uint32_t /*prot*/, Lease& /*lease*/) noexcept {
    return ENOSYS;
}

int FileSystem::dax_unmap(const Lease& /*lease*/) noexcept { return ENOSYS; }

void FileSystem::forget(std::uint64_t /*node*/, std::uint64_t /*count*/) noexcept {}

}  // namespace vmthaw
