#include "userfaultfd_support.hpp"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <span>
#include <utility>

#include "base/error.hpp"

namespace vmthaw::testing_support {
namespace {

constexpr const char* kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
constexpr std::size_t kHugePage = std::size_t{2} << 20U;
constexpr unsigned kMemfdHugetlb2Mib = 0x4U | (21U << 26U);  // MFD_HUGETLB | MFD_HUGE_2MB

long pool_count(const char* name) {
    std::string text;
    std::ifstream(std::string(kPool) + name) >> text;
    return static_cast<long>(std::strtoull(text.c_str(), nullptr, 10));
}

// Reserved pages are free but promised. The kernel's count of them passes through "-2" while pinned pages go back.
long free_pages() { return pool_count("free_hugepages") - std::max(pool_count("resv_hugepages"), 0L); }

bool set_pool(long value) {
    std::ofstream file(std::string(kPool) + "nr_hugepages");
    file << value << std::flush;
    return file.good();
}

// A mapping at a multiple of 2 MiB (of address and offset alike) where its size allows a transparent huge page.
Mapping map_aligned(std::size_t size, int flags, int fd) {
    void* place = nullptr;
    if (size >= kHugePage) {
        const Mapping reserve = Mapping::anonymous(size + kHugePage);
        const std::uint64_t address = address_of(reserve.data());
        place = reserve.data() + ((address + kHugePage - 1) / kHugePage * kHugePage - address);
    }
    void* const address = ::mmap(place, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address == MAP_FAILED) {
        throw SystemError(errno, "mmap of test memory");
    }
    return Mapping::adopt(address, size);
}

sigjmp_buf g_escape;
void escape(int /*signal*/) { siglongjmp(g_escape, 1); }

}  // namespace

std::ostream& operator<<(std::ostream& out, Kind kind) {
    constexpr const char* kNames[] = {"anonymous", "shared_memory", "private_memfd", "hugetlb", "shared_hugetlb"};
    return out << kNames[static_cast<std::size_t>(kind)];
}

std::size_t page_size_of(Kind kind) {
    return is_huge(kind) ? kHugePage : static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

ReservedHugePages::ReservedHugePages(std::size_t pages) {
    if (::access(kPool, F_OK) != 0) {
        reason = "no hugetlb: the kernel has no pool of 2 MiB pages";
        return;
    }
    const char* directory = std::getenv("TMPDIR");
    const std::string path = std::string(directory != nullptr ? directory : "/tmp") + "/vmthaw-huge-pages-" +
                             std::to_string(::getuid()) + ".lock";
    lock_ = UniqueFd(check_errno(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600), "open the lock"));
    check_errno(::flock(lock_.get(), LOCK_EX), "flock");
    const auto wanted = static_cast<long>(pages);
    // The pages of an earlier test may still be on their way back: they count as used for a moment.
    static const long original = pool_count("nr_hugepages");
    const bool enlarged = eventually([&] {
        const long missing = wanted - free_pages();
        if (missing > 0 && set_pool(pool_count("nr_hugepages") + missing)) {
            former_ = original;
        }
        return free_pages() >= wanted || ::access((std::string(kPool) + "nr_hugepages").c_str(), W_OK) != 0;
    });
    if (!enlarged || free_pages() < wanted) {
        reason = "no hugetlb: " + std::to_string(pool_count("nr_hugepages")) + " pages of 2 MiB, " +
                 std::to_string(pool_count("free_hugepages")) + " of them free, and the pool cannot be enlarged";
    }
}

ReservedHugePages::~ReservedHugePages() {
    if (former_ >= 0) {
        set_pool(former_);
    }
}

Memory::Memory(Kind kind, std::size_t pages) : page_size_(page_size_of(kind)) {
    const std::size_t size = pages * page_size_;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (kind == Kind::hugetlb) {
        flags |= MAP_HUGETLB;
    } else if (kind != Kind::anonymous) {
        const unsigned memfd_flags = kind == Kind::shared_hugetlb ? kMemfdHugetlb2Mib : 0U;
        fd_ = UniqueFd(static_cast<int>(
            check_errno_long(::syscall(SYS_memfd_create, "vmthaw-test", memfd_flags), "memfd_create")));
        check_errno(::ftruncate(fd_.get(), static_cast<off_t>(size)), "ftruncate");
        flags = kind == Kind::private_memfd ? MAP_PRIVATE : MAP_SHARED;
    }
    mapping_ = map_aligned(size, flags, fd_.get());
    if (has_alias(kind)) {
        alias_ = map_aligned(size, MAP_SHARED, fd_.get());
    }
}

std::uint64_t Memory::address(std::size_t index) const { return address_of(page(index)); }

void Memory::moved_to(void* address, std::size_t size) {
    // Assigning would unmap the old place, which may be somebody else's by now.
    new (&mapping_) Mapping(Mapping::adopt(address, size));
}

std::uint64_t address_of(const void* pointer) { return std::bit_cast<std::uintptr_t>(pointer); }

bool kernel_has(Features features) {
    static const Features supported = UserfaultfdFactory::probe();
    return (features.bits() & ~supported.bits()) == 0;
}

Userfaultfd make_userfaultfd(Features features) {
    UserfaultfdOptions options;
    options.required = features;
    return UserfaultfdFactory(options).create();
}

Mapping page_of(std::size_t page_size, unsigned char value) {
    Mapping mapping = Mapping::anonymous(page_size);
    std::memset(mapping.data(), value, page_size);
    return mapping;
}

// Atomic: the thread sanitizer does not know the order that userfaultfd puts between a write and who waited for it.
// Relaxed: it takes a lock of its own for anything stronger, and a SIGBUS that escapes would leave it locked.
unsigned char peek(const std::byte* where) {
    auto* byte = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(where));
    return std::atomic_ref<unsigned char>(*byte).load(std::memory_order_relaxed);
}

void poke(std::byte* where, unsigned char value) {
    std::atomic_ref<unsigned char>(*reinterpret_cast<unsigned char*>(where)).store(value, std::memory_order_relaxed);
}

bool raises_sigbus(std::byte* where, bool write) {
    struct sigaction action{};
    struct sigaction former{};
    action.sa_handler = escape;
    ::sigaction(SIGBUS, &action, &former);
    volatile bool raised = true;
    if (sigsetjmp(g_escape, 1) == 0) {
        if (write) {
            poke(where, 1);
        } else {
            (void)peek(where);
        }
        raised = false;
    }
    ::sigaction(SIGBUS, &former, nullptr);
    return raised;
}

bool has_message(const Userfaultfd& userfaultfd) {
    pollfd entry{userfaultfd.fd(), POLLIN, 0};
    return ::poll(&entry, 1, 0) > 0;
}

Message next_message(const Userfaultfd& userfaultfd) {
    UffdMessage message{};
    const bool came = eventually([&] { return userfaultfd.read(std::span(&message, 1)).count == 1; });
    return came ? decode(message) : Message{};
}

bool eventually(const std::function<bool()>& predicate) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!predicate()) {
        if (std::chrono::steady_clock::now() > deadline) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return true;
}

Server::Server(const Userfaultfd& userfaultfd, std::function<void(const Message&)> handle)
    : thread_([this, &userfaultfd, handle = std::move(handle)] {
          while (!stopping_) {
              pollfd entry{userfaultfd.fd(), POLLIN, 0};
              if (::poll(&entry, 1, 5) <= 0) {
                  continue;
              }
              UffdMessage messages[16];
              const ReadOutcome outcome = userfaultfd.read(messages);
              for (std::size_t index = 0; index < outcome.count; ++index) {
                  handle(decode(messages[index]));
              }
          }
      }) {}

Server::~Server() {
    stopping_ = true;
    thread_.join();
}

std::uint64_t pagemap_entry(const std::byte* where) {
    const UniqueFd pagemap(check_errno(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), "open pagemap"));
    std::uint64_t entry = 0;
    const auto index = address_of(where) / static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    check_errno_long(::pread(pagemap.get(), &entry, sizeof entry, static_cast<off_t>(index * sizeof entry)), "pread");
    return entry;
}

long smaps_kib(const std::byte* where, const std::string& field) {
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    bool inside = false;
    while (std::getline(smaps, line)) {
        const std::size_t dash = line.find('-');
        if (dash != std::string::npos && dash < line.find(' ')) {
            const std::uint64_t start = std::strtoull(line.c_str(), nullptr, 16);
            const std::uint64_t end = std::strtoull(line.c_str() + dash + 1, nullptr, 16);
            inside = start <= address_of(where) && address_of(where) < end;
        } else if (inside && line.starts_with(field + ":")) {
            return std::strtol(line.c_str() + field.size() + 1, nullptr, 10);
        }
    }
    return -1;
}

int in_child(const std::function<int()>& body) {
    const pid_t pid = check_errno(::fork(), "fork");
    if (pid == 0) {
        ::_exit(body());
    }
    int status = 0;
    check_errno(::waitpid(pid, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace vmthaw::testing_support
