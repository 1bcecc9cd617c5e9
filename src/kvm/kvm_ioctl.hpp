#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace vmthaw {

// ioctl(2), tried again when a signal interrupts it. Throws SystemError(operation).
int kvm_ioctl(int fd, unsigned long request, void* argument, const char* operation);
int kvm_ioctl(int fd, unsigned long request, unsigned long argument, const char* operation);

// KVM's lists as the kernel lays them out: a u32 count, padding up to `kHeaderBytes`, then the entries. Zeroed, with
// room for `room` entries, which is also the count at first. (Not the headers' structures: see kernel/kvm.hpp.)
template <typename Entry, std::size_t kHeaderBytes>
class KvmList {
public:
    explicit KvmList(std::size_t room)
        : room_(room), memory_(std::calloc(1, kHeaderBytes + room * sizeof(Entry)), &std::free) {
        static_assert(kHeaderBytes % alignof(Entry) == 0);
        if (!memory_) {
            throw std::bad_alloc();
        }
        set_count(room);
    }
    [[nodiscard]] void* get() const noexcept { return memory_.get(); }
    // As the kernel left it, at most the room.
    [[nodiscard]] std::size_t count() const noexcept {
        std::uint32_t count = 0;
        std::memcpy(&count, memory_.get(), sizeof count);
        return std::min<std::size_t>(count, room_);
    }
    void set_count(std::size_t count) noexcept {
        const auto value = static_cast<std::uint32_t>(count);
        std::memcpy(memory_.get(), &value, sizeof value);
    }
    // All the room, whatever the count.
    [[nodiscard]] std::span<Entry> entries() const noexcept {
        auto* const start = static_cast<std::byte*>(memory_.get()) + kHeaderBytes;
        return {reinterpret_cast<Entry*>(start), room_};
    }

private:
    std::size_t room_;
    std::unique_ptr<void, void (*)(void*)> memory_;
};

}  // namespace vmthaw
