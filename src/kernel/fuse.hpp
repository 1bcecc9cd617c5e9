#pragma once

#include <cstdint>

// The numbers of the FUSE protocol 7.45, which <linux/fuse.h> of distributions knows in part. Source:
// include/uapi/linux/fuse.h of Linux 6.18; numbers never change there.
namespace vmthaw {

inline constexpr std::uint32_t kFuseMajor = 7;
// What we speak. Below 12 the requests have other sizes; Linux has sent 31 or more since 5.4.
inline constexpr std::uint32_t kFuseMinor = 45;
inline constexpr std::uint32_t kFuseOldestMinor = 12;

inline constexpr std::uint64_t kFuseRootNode = 1;
inline constexpr std::uint64_t kFuseNoHandle = UINT64_MAX;

enum class FuseOpcode : std::uint32_t {
    lookup = 1,
    forget = 2,
    getattr = 3,
    setattr = 4,
    readlink = 5,
    symlink = 6,
    mknod = 8,
    mkdir = 9,
    unlink = 10,
    rmdir = 11,
    rename = 12,
    link = 13,
    open = 14,
    read = 15,
    write = 16,
    statfs = 17,
    release = 18,
    fsync = 20,
    setxattr = 21,
    getxattr = 22,
    listxattr = 23,
    removexattr = 24,
    flush = 25,
    init = 26,
    opendir = 27,
    readdir = 28,
    releasedir = 29,
    fsyncdir = 30,
    getlk = 31,
    setlk = 32,
    setlkw = 33,
    access = 34,
    create = 35,
    interrupt = 36,
    bmap = 37,
    destroy = 38,
    ioctl = 39,
    poll = 40,
    notify_reply = 41,
    batch_forget = 42,
    fallocate = 43,
    readdirplus = 44,
    rename2 = 45,
    lseek = 46,
    copy_file_range = 47,
    setupmapping = 48,
    removemapping = 49,
    syncfs = 50,
    tmpfile = 51,
    statx = 52,
    copy_file_range_64 = 53,  // Linux 6.18: the reply's count has 64 bits
};

// Flags of INIT. The upper half travels in flags2 and counts only with kFuseInitExt.
inline constexpr std::uint64_t kFuseAsyncRead = 1ULL << 0;
inline constexpr std::uint64_t kFusePosixLocks = 1ULL << 1;
inline constexpr std::uint64_t kFuseAtomicOTrunc = 1ULL << 3;
inline constexpr std::uint64_t kFuseExportSupport = 1ULL << 4;
inline constexpr std::uint64_t kFuseBigWrites = 1ULL << 5;
inline constexpr std::uint64_t kFuseDontMask = 1ULL << 6;
inline constexpr std::uint64_t kFuseSpliceWrite = 1ULL << 7;
inline constexpr std::uint64_t kFuseSpliceMove = 1ULL << 8;
inline constexpr std::uint64_t kFuseSpliceRead = 1ULL << 9;
inline constexpr std::uint64_t kFuseAutoInvalData = 1ULL << 12;
inline constexpr std::uint64_t kFuseDoReaddirplus = 1ULL << 13;
inline constexpr std::uint64_t kFuseReaddirplusAuto = 1ULL << 14;
inline constexpr std::uint64_t kFuseAsyncDio = 1ULL << 15;
inline constexpr std::uint64_t kFuseWritebackCache = 1ULL << 16;
inline constexpr std::uint64_t kFuseNoOpenSupport = 1ULL << 17;
inline constexpr std::uint64_t kFuseParallelDirops = 1ULL << 18;
inline constexpr std::uint64_t kFuseHandleKillpriv = 1ULL << 19;
inline constexpr std::uint64_t kFusePosixAcl = 1ULL << 20;
inline constexpr std::uint64_t kFuseAbortError = 1ULL << 21;
inline constexpr std::uint64_t kFuseMaxPages = 1ULL << 22;
inline constexpr std::uint64_t kFuseCacheSymlinks = 1ULL << 23;
inline constexpr std::uint64_t kFuseNoOpendirSupport = 1ULL << 24;
inline constexpr std::uint64_t kFuseMapAlignment = 1ULL << 26;
inline constexpr std::uint64_t kFuseHandleKillprivV2 = 1ULL << 28;
inline constexpr std::uint64_t kFuseSetxattrExt = 1ULL << 29;
inline constexpr std::uint64_t kFuseInitExt = 1ULL << 30;
inline constexpr std::uint64_t kFuseHasInodeDax = 1ULL << 33;
inline constexpr std::uint64_t kFuseDirectIoAllowMmap = 1ULL << 36;

// fuse_attr.flags
inline constexpr std::uint32_t kFuseAttrDax = 1U << 1;
// fuse_getattr_in.getattr_flags: the handle counts
inline constexpr std::uint32_t kFuseGetattrHandle = 1U << 0;

// fuse_setattr_in.valid
inline constexpr std::uint32_t kFattrMode = 1U << 0;
inline constexpr std::uint32_t kFattrUid = 1U << 1;
inline constexpr std::uint32_t kFattrGid = 1U << 2;
inline constexpr std::uint32_t kFattrSize = 1U << 3;
inline constexpr std::uint32_t kFattrAtime = 1U << 4;
inline constexpr std::uint32_t kFattrMtime = 1U << 5;
inline constexpr std::uint32_t kFattrHandle = 1U << 6;
inline constexpr std::uint32_t kFattrAtimeNow = 1U << 7;
inline constexpr std::uint32_t kFattrMtimeNow = 1U << 8;
inline constexpr std::uint32_t kFattrLockOwner = 1U << 9;
inline constexpr std::uint32_t kFattrCtime = 1U << 10;
inline constexpr std::uint32_t kFattrKillSuidgid = 1U << 11;

// fuse_open_out.open_flags
inline constexpr std::uint32_t kFopenDirectIo = 1U << 0;
inline constexpr std::uint32_t kFopenKeepCache = 1U << 1;
inline constexpr std::uint32_t kFopenNonseekable = 1U << 2;
inline constexpr std::uint32_t kFopenCacheDir = 1U << 3;
inline constexpr std::uint32_t kFopenStream = 1U << 4;
inline constexpr std::uint32_t kFopenNoflush = 1U << 5;
inline constexpr std::uint32_t kFopenParallelDirectWrites = 1U << 6;

// fuse_open_in.open_flags and fuse_create_in.open_flags
inline constexpr std::uint32_t kFuseOpenKillSuidgid = 1U << 0;
// fuse_write_in.write_flags
inline constexpr std::uint32_t kFuseWriteCache = 1U << 0;
inline constexpr std::uint32_t kFuseWriteLockOwner = 1U << 1;
inline constexpr std::uint32_t kFuseWriteKillSuidgid = 1U << 2;
// fuse_release_in.release_flags
inline constexpr std::uint32_t kFuseReleaseFlush = 1U << 0;
// fuse_fsync_in.fsync_flags
inline constexpr std::uint32_t kFuseFsyncDataOnly = 1U << 0;

// renameat2(2), which glibc 2.17 does not know
inline constexpr std::uint32_t kRenameNoReplace = 1U << 0;
inline constexpr std::uint32_t kRenameExchange = 1U << 1;
inline constexpr std::uint32_t kRenameWhiteout = 1U << 2;

// The mask of statx(2): the inode's number, all that struct fuse_attr carries, and the time of birth
inline constexpr std::uint32_t kStatxIno = 0x100;
inline constexpr std::uint32_t kStatxBasicStats = 0x7ff;
inline constexpr std::uint32_t kStatxBtime = 0x800;

}  // namespace vmthaw
