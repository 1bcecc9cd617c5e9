#pragma once

#include <cstdint>

#include "fuse_fuzz_client.hpp"

// What FuseFuzzClient puts behind the header of each request.
namespace vmthaw {

inline void FuseFuzzClient::body(FuseOpcode opcode) {
    switch (opcode) {
        case FuseOpcode::init:
            put(FuseInitIn{input_.ConsumeIntegralInRange<std::uint32_t>(6, 8), kFuseMinor, 0, flags(), flags(), {}});
            return;
        case FuseOpcode::forget:
            put(FuseForgetIn{input_.ConsumeIntegralInRange<std::uint64_t>(0, 3)});
            return;
        case FuseOpcode::batch_forget: {
            const std::uint32_t count = input_.ConsumeIntegralInRange<std::uint32_t>(0, 3);
            put(FuseBatchForgetIn{input_.ConsumeBool() ? count : flags(), 0});
            for (std::uint32_t i = 0; i < count; ++i) {
                put(FuseForgetOne{node(), input_.ConsumeIntegralInRange<std::uint64_t>(0, 3)});
            }
            return;
        }
        case FuseOpcode::getattr:
            put(FuseGetattrIn{few_flags(), 0, offset()});
            return;
        case FuseOpcode::setattr: {
            FuseSetattrIn change;
            change.valid = input_.ConsumeIntegralInRange<std::uint32_t>(0, 0xfff);
            change.size = offset();
            change.fh = (change.valid & kFattrHandle) != 0 ? handle() : 0;
            change.mode = flags();
            change.atimensec = flags();
            put(change);
            return;
        }
        case FuseOpcode::statx:
            put(FuseStatxIn{few_flags(), 0, offset(), 0, flags()});
            return;
        case FuseOpcode::setxattr: {
            const std::uint32_t size = length() % 600;
            put(FuseSetxattrIn{size, few_flags() % 3, 0, 0});
            put_name();
            request_.insert(request_.end(), size, 0x42);
            return;
        }
        case FuseOpcode::getxattr:
            put(FuseGetxattrIn{length(), 0});
            put_name();
            return;
        case FuseOpcode::listxattr:
            put(FuseGetxattrIn{length(), 0});
            return;
        case FuseOpcode::access:
        case FuseOpcode::interrupt:
            put(std::uint64_t{few_flags()});
            return;
        default:
            names_body(opcode);
    }
}

inline void FuseFuzzClient::names_body(FuseOpcode opcode) {
    switch (opcode) {
        case FuseOpcode::lookup:
        case FuseOpcode::unlink:
        case FuseOpcode::rmdir:
        case FuseOpcode::removexattr:
            put_name();
            return;
        case FuseOpcode::symlink:
            put_name();
            put_name();
            return;
        case FuseOpcode::mknod:
            put(FuseMknodIn{few_flags() << 12U | 0644U, flags(), 0, 0});
            put_name();
            return;
        case FuseOpcode::mkdir:
            put(FuseMkdirIn{flags(), 0});
            put_name();
            return;
        case FuseOpcode::rename:
            put(FuseRenameIn{node()});
            put_name();
            put_name();
            return;
        case FuseOpcode::rename2:
            put(FuseRename2In{node(), few_flags() % 5, 0});
            put_name();
            put_name();
            return;
        case FuseOpcode::link:
            put(FuseLinkIn{node()});
            put_name();
            return;
        case FuseOpcode::create:
        case FuseOpcode::tmpfile:
            put(FuseCreateIn{flags(), S_IFREG | 0644U, 0, few_flags()});
            put_name();
            return;
        default:
            files_body(opcode);
    }
}

inline void FuseFuzzClient::files_body(FuseOpcode opcode) {
    switch (opcode) {
        case FuseOpcode::open:
        case FuseOpcode::opendir:
            put(FuseOpenIn{flags(), few_flags()});
            return;
        case FuseOpcode::read:
        case FuseOpcode::readdir:
        case FuseOpcode::readdirplus:
            put(FuseReadIn{handle(), offset() / 1000, length(), 0, 0, 0, 0});
            return;
        case FuseOpcode::write: {
            const std::uint32_t size = length() % 16384;
            put(FuseWriteIn{handle(), offset(), size, few_flags(), 0, 0, 0});
            request_.insert(request_.end(), size, 0x57);
            return;
        }
        case FuseOpcode::release:
        case FuseOpcode::releasedir:
            put(FuseReleaseIn{handle(), 0, 0, 0});
            return;
        case FuseOpcode::flush:
            put(FuseFlushIn{handle(), 0, 0, 0});
            return;
        case FuseOpcode::fsync:
        case FuseOpcode::fsyncdir:
            put(FuseFsyncIn{handle(), 0, 0});
            return;
        case FuseOpcode::fallocate:
            put(FuseFallocateIn{handle(), offset(), offset(), input_.ConsumeIntegralInRange<std::uint32_t>(0, 32), 0});
            return;
        case FuseOpcode::lseek:
            put(FuseLseekIn{handle(), offset(), few_flags() % 6, 0});
            return;
        case FuseOpcode::copy_file_range:
        case FuseOpcode::copy_file_range_64: {
            const std::uint64_t from = handle();
            put(FuseCopyFileRangeIn{from, offset(), node(), handle(), offset(), offset(), 0});
            return;
        }
        default:
            request_.insert(request_.end(), few_flags() * 4, 0x33);
    }
}

}  // namespace vmthaw
