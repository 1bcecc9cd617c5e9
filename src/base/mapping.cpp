#include "base/mapping.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "base/error.hpp"

namespace vmthaw {

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    if (this != &other) {
        reset();
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

Mapping::~Mapping() { reset(); }

void Mapping::reset() noexcept {
    if (data_ != nullptr) {
        const int saved = errno;
        ::munmap(data_, size_);
        errno = saved;
    }
    data_ = nullptr;
    size_ = 0;
}

Mapping Mapping::anonymous(std::size_t size) {
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "mmap(anonymous)");
}

Mapping Mapping::map(std::size_t size, int protection, int flags, int fd, std::size_t offset, const char* operation) {
    void* address = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
    if (address == MAP_FAILED) {
        const int saved = errno;
        throw SystemError(saved, operation);
    }
    return {static_cast<std::byte*>(address), size};
}

Mapping Mapping::adopt(void* address, std::size_t size) noexcept { return {static_cast<std::byte*>(address), size}; }

}  // namespace vmthaw
