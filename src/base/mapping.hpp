#pragma once

#include <cstddef>
#include <span>

namespace vmthaw {

// Owns one mmap; move-only. All factories throw SystemError.
class Mapping {
public:
    Mapping() noexcept = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    // Zeroed, private, NORESERVE memory: costs nothing until touched.
    [[nodiscard]] static Mapping anonymous(std::size_t size);
    // The whole call, for whoever needs other flags (hugetlb, shared, alignment). The size is as given.
    [[nodiscard]] static Mapping map(std::size_t size, int protection, int flags, int fd, std::size_t offset,
                                     const char* operation);
    // Takes over what somebody else mapped.
    [[nodiscard]] static Mapping adopt(void* address, std::size_t size) noexcept;

    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }
    [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }
    void reset() noexcept;

private:
    Mapping(std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace vmthaw
