#include "userfaultfd/userfaultfd_factory.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/error.hpp"

namespace vmthaw {
namespace {

constexpr const char* kDevice = "/dev/userfaultfd";
constexpr unsigned kCapSysPtrace = 19;
#ifdef SYS_userfaultfd
constexpr long kSysUserfaultfd = SYS_userfaultfd;
#elif defined(__x86_64__)
constexpr long kSysUserfaultfd = 323;
#else
constexpr long kSysUserfaultfd = 282;  // asm-generic
#endif

bool has_ptrace_capability() {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.starts_with("CapEff:")) {
            return (std::strtoull(line.c_str() + 7, nullptr, 16) >> kCapSysPtrace & 1U) != 0;
        }
    }
    return false;
}

std::string describe_device() {
    struct stat status{};
    if (::stat(kDevice, &status) != 0) {
        return std::string(kDevice) + " is missing";
    }
    std::array<char, 96> text{};
    std::snprintf(text.data(), text.size(), "%s (mode %04o, owner %u:%u) %s", kDevice,
                  static_cast<unsigned>(status.st_mode & 07777U), static_cast<unsigned>(status.st_uid),
                  static_cast<unsigned>(status.st_gid),
                  ::access(kDevice, R_OK | W_OK) == 0 ? "is accessible" : "is not accessible to this process");
    return text.data();
}

std::string describe_refusal(int error_number) {
    switch (error_number) {
        case EPERM:
        case EACCES: {
            std::string sysctl = "unknown";
            std::ifstream("/proc/sys/vm/unprivileged_userfaultfd") >> sysctl;
            return describe_device() + ", CAP_SYS_PTRACE is " + (has_ptrace_capability() ? "held" : "missing") +
                   " and vm.unprivileged_userfaultfd is " + sysctl +
                   "; make the device readable and writable for this user, grant the capability or set the sysctl to "
                   "1 (a container's seccomp filter may refuse it as well); run `vmthaw doctor`";
        }
        case ENOSYS:
            return "the kernel has no userfaultfd, or a seccomp filter hides it; run `vmthaw doctor`";
        case EMFILE:
            return "this process has no descriptors left; raise RLIMIT_NOFILE (ulimit -n)";
        case ENFILE:
            return "the system has no descriptors left; raise fs.file-max";
        default:
            return "run `vmthaw doctor`";
    }
}

UniqueFd open_device() noexcept { return UniqueFd(::open(kDevice, O_RDWR | O_CLOEXEC)); }

// Asks the device first and, whatever it says, the system call. Empty on failure, with errno set.
UniqueFd try_open(const UniqueFd& device, unsigned flags) noexcept {
    if (device) {
        UniqueFd fd(::ioctl(device.get(), kUserfaultfdIocNew, flags));
        if (fd || errno == EMFILE || errno == ENFILE) {
            return fd;
        }
    }
    return UniqueFd(static_cast<int>(::syscall(kSysUserfaultfd, flags)));
}

UniqueFd open_descriptor(const UniqueFd& device, unsigned flags) {
    UniqueFd fd = try_open(device, flags);
    if (!fd) {
        const int saved = errno;
        throw SystemError(saved, "userfaultfd", describe_refusal(saved));
    }
    return fd;
}

// The one UFFDIO_API that a descriptor may get. Gives back what the kernel supports.
Features negotiate(const UniqueFd& fd, Features wanted) {
    UffdApi api{kUffdApi, wanted.bits(), 0};
    if (::ioctl(fd.get(), kUffdioApi, &api) < 0) {
        const int saved = errno;
        const bool is_fork = saved == EPERM && wanted.has(Feature::event_fork);
        throw SystemError(saved, "UFFDIO_API",
                          is_fork ? "event_fork needs CAP_SYS_PTRACE; run `vmthaw doctor`" : "run `vmthaw doctor`");
    }
    if (api.api != kUffdApi) {
        throw SystemError(EOPNOTSUPP, "UFFDIO_API", "the kernel speaks another version of the userfaultfd interface");
    }
    return Features(api.features);
}

void require(Features required, Features supported) {
    const Features missing(required.bits() & ~supported.bits());
    if (missing == Features{}) {
        return;
    }
    std::string list;
    for (const std::string& name : missing.names()) {
        list += (list.empty() ? "" : ", ") + name;
    }
    throw SystemError(EOPNOTSUPP, "UFFDIO_API",
                      "this kernel's userfaultfd lacks " + list + "; use a newer kernel, or ask for less");
}

unsigned flags_of(const UserfaultfdOptions& options) noexcept {
    return (options.close_on_exec ? unsigned{O_CLOEXEC} : 0U) | (options.nonblocking ? unsigned{O_NONBLOCK} : 0U) |
           (options.user_mode_only ? kUffdUserModeOnly : 0U);
}

}  // namespace

UserfaultfdFactory::UserfaultfdFactory(const UserfaultfdOptions& options) : device_(open_device()), options_(options) {
    supported_ = negotiate(open_descriptor(device_, flags_of(options_)), Features{});
    require(options_.required, supported_);
    features_ = Features(options_.required.bits() | (options_.optional.bits() & supported_.bits()));
    try {
        negotiate(open_descriptor(device_, flags_of(options_)), features_);
    } catch (const SystemError& error) {
        // The kernel has event_fork, but only for CAP_SYS_PTRACE.
        if (error.errno_value() != EPERM || options_.required.has(Feature::event_fork) ||
            !features_.has(Feature::event_fork)) {
            throw;
        }
        features_ = Features(features_.bits() & ~static_cast<std::uint64_t>(Feature::event_fork));
    }
}

Userfaultfd UserfaultfdFactory::create() const {
    UniqueFd fd = open_descriptor(device_, flags_of(options_));
    require(features_, negotiate(fd, features_));
    return {std::move(fd), features_};
}

UserfaultfdFactory UserfaultfdFactory::try_clone() const {
    return {device_ ? device_.duplicate() : UniqueFd{}, options_, supported_, features_};
}

std::vector<int> UserfaultfdFactory::descriptors() const {
    return device_ ? std::vector<int>{device_.get()} : std::vector<int>{};
}

Features UserfaultfdFactory::probe() {
    const UniqueFd device = open_device();
    UniqueFd fd = try_open(device, O_CLOEXEC | O_NONBLOCK);
    const int saved = errno;
    if (!fd) {
        fd = try_open(device, O_CLOEXEC | O_NONBLOCK | kUffdUserModeOnly);
    }
    if (!fd) {
        throw SystemError(saved, "userfaultfd", describe_refusal(saved));
    }
    return negotiate(fd, Features{});
}

}  // namespace vmthaw
