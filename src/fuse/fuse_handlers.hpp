#pragma once

#include "fuse/fuse_call.hpp"

// One handler for each request, named after it; what they have in common stands in fuse_call.hpp.
namespace vmthaw::fuse_handlers {

// fuse_handlers_names.cpp
int lookup(FuseCall& call) noexcept;
int forget(FuseCall& call) noexcept;
int batch_forget(FuseCall& call) noexcept;
int readlink(FuseCall& call) noexcept;
int symlink(FuseCall& call) noexcept;
int mknod(FuseCall& call) noexcept;
int mkdir(FuseCall& call) noexcept;
int unlink(FuseCall& call) noexcept;
int rmdir(FuseCall& call) noexcept;
int rename(FuseCall& call) noexcept;
int rename2(FuseCall& call) noexcept;
int link(FuseCall& call) noexcept;
int create(FuseCall& call) noexcept;
int tmpfile(FuseCall& call) noexcept;

// fuse_handlers_files.cpp
int open(FuseCall& call) noexcept;
int read(FuseCall& call) noexcept;
int write(FuseCall& call) noexcept;
int flush(FuseCall& call) noexcept;
int release(FuseCall& call) noexcept;
int fsync(FuseCall& call) noexcept;
int fallocate(FuseCall& call) noexcept;
int lseek(FuseCall& call) noexcept;
int copy_file_range(FuseCall& call) noexcept;
int copy_file_range_64(FuseCall& call) noexcept;
int setupmapping(FuseCall& call) noexcept;
int removemapping(FuseCall& call) noexcept;

// fuse_handlers_directories.cpp
int opendir(FuseCall& call) noexcept;
int readdir(FuseCall& call) noexcept;
int readdirplus(FuseCall& call) noexcept;
int releasedir(FuseCall& call) noexcept;
int fsyncdir(FuseCall& call) noexcept;

// fuse_handlers_attributes.cpp
int getattr(FuseCall& call) noexcept;
int setattr(FuseCall& call) noexcept;
int statx(FuseCall& call) noexcept;
int access(FuseCall& call) noexcept;
int setxattr(FuseCall& call) noexcept;
int getxattr(FuseCall& call) noexcept;
int listxattr(FuseCall& call) noexcept;
int removexattr(FuseCall& call) noexcept;
int statfs(FuseCall& call) noexcept;
int syncfs(FuseCall& call) noexcept;
int interrupt(FuseCall& call) noexcept;
int notify_reply(FuseCall& call) noexcept;

}  // namespace vmthaw::fuse_handlers
