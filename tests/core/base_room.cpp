#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/event_fd.hpp"
#include "base/fork_guard.hpp"
#include "base/log.hpp"
#include "base/mapping.hpp"
#include "base/pid_fd.hpp"
#include "base/thread.hpp"
#include "base/unique_fd.hpp"

namespace vmthaw {
namespace {

TEST(UniqueFd, ClosingKeepsErrno) {
    UniqueFd good(::eventfd(0, EFD_CLOEXEC));
    UniqueFd bad(1 << 20);  // close() fails with EBADF
    errno = ENOSPC;
    good.reset();
    bad.reset();
    EXPECT_EQ(errno, ENOSPC);
}

TEST(UniqueFd, MovesAndNeverClosesTwice) {
    UniqueFd first(::eventfd(0, EFD_CLOEXEC));
    const int number = first.get();
    UniqueFd second(std::move(first));
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(second.get(), number);
    UniqueFd& self = second;
    second = std::move(self);
    EXPECT_EQ(second.get(), number);
    const UniqueFd copy = second.duplicate();
    EXPECT_EQ(::fcntl(copy.get(), F_GETFD), FD_CLOEXEC);
    second.reset();
    EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

TEST(UniqueFd, DuplicateOfNothingNamesTheCall) {
    try {
        (void)UniqueFd().duplicate();
        FAIL() << "no error";
    } catch (const SystemError& error) {
        EXPECT_EQ(error.errno_value(), EBADF);
        EXPECT_EQ(error.operation(), "fcntl(F_DUPFD_CLOEXEC)");
    }
}

TEST(Errors, EachCheckerKnowsItsConvention) {
    errno = EBUSY;
    EXPECT_EQ(check_errno(3, "call"), 3);
    EXPECT_EQ(check_errno_long(0, "call"), 0);
    EXPECT_NO_THROW(check_returned(0, "call"));
    const auto errno_of = [](auto&& call) {
        try {
            call();
        } catch (const SystemError& error) {
            return error.errno_value();
        }
        return 0;
    };
    EXPECT_EQ(errno_of([] { errno = EPERM, check_errno(-1, "call"); }), EPERM);
    EXPECT_EQ(errno_of([] { errno = ESRCH, check_errno_long(-1, "call"); }), ESRCH);
    EXPECT_EQ(errno_of([] { errno = EPERM, check_returned(ENOMEM, "call"); }), ENOMEM);
}

TEST(Errors, ASystemErrorSaysWhatWhereWhyAndHowToMendIt) {
    const SystemError error(EPERM, "userfaultfd", "run `vmthaw doctor`", 0x7f001000);
    EXPECT_STREQ(error.what(), "userfaultfd at 0x7f001000: Operation not permitted; run `vmthaw doctor`");
}

TEST(EventFd, CountsSignalsUntilDrained) {
    const EventFd event;
    EXPECT_EQ(event.drain(), 0U);
    event.signal();
    event.signal();
    errno = ENOSPC;
    EXPECT_EQ(event.drain(), 2U);
    EXPECT_EQ(event.drain(), 0U);
    EXPECT_EQ(errno, ENOSPC);
}

TEST(Mapping, UnmapsOnceAndKeepsErrno) {
    Mapping mapping = Mapping::anonymous(8192);
    mapping.bytes()[8191] = std::byte{7};
    Mapping moved(std::move(mapping));
    EXPECT_FALSE(mapping);  // NOLINT(bugprone-use-after-move)
    errno = ENOSPC;
    moved.reset();
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_THROW((void)Mapping::anonymous(0), SystemError);
}

TEST(PidFd, SeesAProcessEndAndRefusesOtherDescriptors) {
    int gate[2];
    ASSERT_EQ(::pipe(gate), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        char byte = 0;
        ::close(gate[1]);
        (void)!::read(gate[0], &byte, 1);
        ::_exit(0);
    }
    const PidFd held = PidFd::open(child);
    EXPECT_FALSE(held.has_exited());
    const PidFd adopted = PidFd::adopt(UniqueFd(::dup(held.fd())));
    EXPECT_EQ(adopted.pid(), child);
    EXPECT_EQ(held.send_signal(0), 0);
    ::close(gate[1]);
    ::close(gate[0]);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(held.has_exited());
    EXPECT_EQ(held.send_signal(0), ESRCH);
    EXPECT_THROW((void)PidFd::open(child), SystemError);
    EXPECT_THROW((void)PidFd::adopt(UniqueFd(::eventfd(0, EFD_CLOEXEC))), SystemError);
}

std::uint64_t blocked_signals_of(long tid) {
    std::ifstream status("/proc/self/task/" + std::to_string(tid) + "/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.starts_with("SigBlk:")) {
            return std::stoull(line.substr(7), nullptr, 16);
        }
    }
    return 0;
}

TEST(Thread, BlocksEverySignalButThoseOfFaultsAndCarriesItsName) {
    sigset_t before;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
    std::uint64_t blocked = 0;
    std::string name(16, '\0');
    std::thread thread = start_thread("a-name-that-is-too-long", [&] {
        blocked = blocked_signals_of(::syscall(SYS_gettid));
        ::pthread_getname_np(::pthread_self(), name.data(), name.size());
    });
    thread.join();
    for (int signal = 1; signal <= SIGRTMAX; ++signal) {
        if (signal == SIGKILL || signal == SIGSTOP || (signal > 31 && signal < SIGRTMIN)) {
            continue;  // cannot be blocked, or the C library's own
        }
        const bool fault = signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE;
        EXPECT_EQ((blocked >> (signal - 1) & 1U) == 0, fault) << "signal " << signal;
    }
    EXPECT_STREQ(name.c_str(), "a-name-that-is-");
    sigset_t after;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
    EXPECT_EQ(::sigismember(&after, SIGINT), ::sigismember(&before, SIGINT)) << "the creator's mask has changed";
}

TEST(Thread, ABodyThatThrowsEndsItsThreadWithALineInTheLog) {
    std::vector<LogRecord> records;
    while (drain_log(records, 1000) == 1000) {
    }
    records.clear();
    std::thread thread = start_thread("thrower", [] { throw std::runtime_error("the reason"); });
    thread.join();
    drain_log(records, 10);
    ASSERT_EQ(records.size(), 2U);
    EXPECT_EQ(records[1].level, LogLevel::error);
    EXPECT_EQ(records[1].text_view(), "the reason");
}

TEST(Thread, UsableProcessorsAreThoseOfTheAffinityMask) {
    const std::vector<int> cpus = usable_cpus();
    ASSERT_FALSE(cpus.empty());
    int ran_on = -1;
    std::thread thread = start_thread("pinned", [&] { ran_on = ::sched_getcpu(); }, cpus.back());
    thread.join();
    EXPECT_EQ(ran_on, cpus.back());
}

TEST(ForkGuard, AnObjectIsInertInTheChildOnly) {
    const ForkGuard guard;
    EXPECT_FALSE(guard.inherited());
    EXPECT_NO_THROW(guard.check("the pager"));
    EventFd gate;
    std::thread thread = start_thread("waits", [&] {
        while (gate.drain() == 0) {
            std::this_thread::yield();
        }
    });
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        bool good = guard.inherited() && !ForkGuard().inherited();
        try {
            guard.check("the pager");
            good = false;
        } catch (const ForkedError& error) {
            good = good && std::string(error.what()).starts_with("the pager was created before fork()");
        }
        join_or_abandon(thread, guard);  // must neither wait for a thread that is not here nor end the process
        ::_exit(good && !thread.joinable() ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_FALSE(guard.inherited());
    gate.signal();
    join_or_abandon(thread, guard);
    EXPECT_FALSE(thread.joinable());
}

}  // namespace
}  // namespace vmthaw
