#include "memory_questions.hpp"

#include "machine.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>

namespace probe {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr std::byte kFill{0x5a};

std::byte* shared_window() { return map(kWindowBytes, kReadWrite, MAP_SHARED); }

int memory_file(std::size_t size_bytes) {
    const int file = memfd_create("probe", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(size_bytes)) != 0) {
        fail("memfd_create");
    }
    return file;
}

int make_userfaultfd() {
    const long fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    uffdio_api api{UFFD_API, 0, 0};
    if (fd < 0 || ioctl(static_cast<int>(fd), UFFDIO_API, &api) != 0) {
        fail("userfaultfd");
    }
    return static_cast<int>(fd);
}

std::uint64_t address_of(const std::byte* memory) { return reinterpret_cast<std::uint64_t>(memory); }

bool watch(int userfaultfd, std::byte* memory, std::uint64_t mode) {
    uffdio_register range{{address_of(memory), kWindowBytes}, mode, 0};
    return ioctl(userfaultfd, UFFDIO_REGISTER, &range) == 0;
}

// Answers every fault: a missing page gets kFill, a protected one is released. Says what it saw.
[[noreturn]] void answer_faults(int userfaultfd, const std::byte* memory) {
    alignas(kPageBytes) static std::byte page[kPageBytes];
    std::memset(page, static_cast<int>(kFill), sizeof page);
    uffd_msg message{};
    while (read(userfaultfd, &message, sizeof message) == sizeof message) {
        const std::uint64_t at = message.arg.pagefault.address & ~std::uint64_t{kPageBytes - 1};
        const bool is_protected = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
        say("fault", (is_protected ? "protected page at " : "missing page at ") + hexadecimal(at - address_of(memory)));
        if (is_protected) {
            uffdio_writeprotect release{{at, kPageBytes}, 0};
            ioctl(userfaultfd, UFFDIO_WRITEPROTECT, &release);
        } else {
            uffdio_copy copy{at, address_of(page), kPageBytes, 0, 0};
            ioctl(userfaultfd, UFFDIO_COPY, &copy);
        }
    }
    fail("read");
}

pthread_t g_runner;

// Kicks the thread that runs the guest, again and again: the first signal may come before KVM_RUN.
void kick_soon() {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR1, &action, nullptr);
    g_runner = pthread_self();
    std::thread([] {
        for (;;) {
            usleep(100'000);
            pthread_kill(g_runner, SIGUSR1);
        }
    }).detach();
}

}  // namespace

void ask_hole() {
    Machine machine;
    std::byte* memory = map(kWindowBytes, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    machine.window(memory);
    machine.load(window_guest());
    say("read", machine.run_to_exit());
    if (mprotect(memory, kWindowBytes, kReadWrite) != 0) {
        fail("mprotect");
    }
    say("filled", machine.run_to_exit());
}

void ask_end_of_file() {
    Machine machine;
    machine.window(map(kWindowBytes, kReadWrite, MAP_SHARED, memory_file(kPageBytes)));
    machine.load(window_guest());
    say("read", machine.run_to_exit());
}

void ask_read_only_mapping() {
    Machine machine;
    machine.window(map(kWindowBytes, PROT_READ, MAP_SHARED));
    machine.load(window_guest());
    say("read", machine.run_to_exit());
    say("write", machine.run_to_exit());
}

void ask_read_only_slot() {
    Machine machine;
    std::byte* memory = shared_window();
    memory[kReadAt] = std::byte{0x77};
    machine.window(memory, KVM_MEM_READONLY);
    machine.load(window_guest());
    say("read", machine.run_to_exit());
    say("write", machine.run_to_exit());
    say("memory", memory[kReadAt] == std::byte{0x77} ? "kept" : "changed");
}

void ask_new_mapping() {
    Machine machine;
    std::byte* memory = shared_window();
    memory[kReadAt] = std::byte{1};
    machine.window(memory);
    machine.load(window_guest());
    say("before", machine.run_to_exit());
    const int file = memory_file(kWindowBytes);
    const std::byte value{2};
    if (pwrite(file, &value, 1, kReadAt) != 1 ||
        mmap(memory, kWindowBytes, kReadWrite, MAP_SHARED | MAP_FIXED, file, 0) != memory) {
        fail("mmap");
    }
    machine.load(window_guest());
    say("after", machine.run_to_exit());
}

void ask_dirty_log() {
    Machine machine;
    machine.window(shared_window(), KVM_MEM_LOG_DIRTY_PAGES);
    machine.load(window_guest());
    for (int exits = 0; exits < 3; ++exits) {
        say("exit", machine.run_to_exit());
    }
    std::uint64_t bits[kWindowBytes / kPageBytes / 64] = {};
    kvm_dirty_log log{};
    log.slot = 1;
    log.dirty_bitmap = bits;
    if (machine.ioctl_vm(KVM_GET_DIRTY_LOG, &log) != 0) {
        fail("KVM_GET_DIRTY_LOG");
    }
    for (unsigned page = 0; page < 64; ++page) {
        if ((bits[0] >> page & 1U) != 0) {
            say("page", std::to_string(page));
        }
    }
}

void ask_missing_pages() {
    Machine machine;
    const int userfaultfd = make_userfaultfd();
    std::byte* memory = map(kWindowBytes, kReadWrite, MAP_PRIVATE);
    const bool protects = watch(userfaultfd, memory, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    say("write_protect", protects ? "yes" : "no");
    if (!protects && !watch(userfaultfd, memory, UFFDIO_REGISTER_MODE_MISSING)) {
        fail("UFFDIO_REGISTER");
    }
    machine.window(memory);
    std::thread([=] { answer_faults(userfaultfd, memory); }).detach();
    machine.load(window_guest());
    say("read", machine.run_to_exit());
    uffdio_writeprotect protect{{address_of(memory) + kReadAt, kPageBytes}, UFFDIO_WRITEPROTECT_MODE_WP};
    if (protects && ioctl(userfaultfd, UFFDIO_WRITEPROTECT, &protect) != 0) {
        fail("UFFDIO_WRITEPROTECT");
    }
    say("write_same", machine.run_to_exit());
    say("write_other", machine.run_to_exit());
}

void ask_poison() {
    Machine machine;
    const int userfaultfd = make_userfaultfd();
    std::byte* memory = map(kWindowBytes, kReadWrite, MAP_PRIVATE);
    // struct uffdio_poison and its ioctl are younger than distributions' headers.
    struct {
        uffdio_range range;
        std::uint64_t mode;
        std::int64_t updated;
    } poison{{address_of(memory) + kReadAt, kPageBytes}, 0, 0};
    if (!watch(userfaultfd, memory, UFFDIO_REGISTER_MODE_MISSING) ||
        ioctl(userfaultfd, _IOWR(UFFDIO, 0x08, poison), &poison) != 0) {
        fail("UFFDIO_POISON");
    }
    machine.window(memory);
    machine.load(window_guest());
    say("read", machine.run_to_exit());
}

void ask_immediate_exit() {
    Machine machine;
    machine.load(spinning_guest());
    machine.state().immediate_exit = 1;
    say("run", machine.run() == EINTR ? "EINTR" : machine.exit());
}

void ask_kick() {
    Machine machine;
    machine.load(spinning_guest());
    kick_soon();
    say("run", machine.run() == EINTR ? "EINTR" : machine.exit());
}

void ask_waiting() {
    Machine machine(true);
    machine.load(idle_guest());
    kick_soon();
    say("run", machine.run() == EINTR ? "EINTR" : machine.exit());
}

}  // namespace probe
