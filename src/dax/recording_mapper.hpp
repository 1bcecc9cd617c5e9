#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "dax/dax_mapper.hpp"

namespace vmthaw {

// Maps nothing and remembers what it was asked for: for tests and measurements. Any thread.
class RecordingMapper final : public DaxMapper {
public:
    struct Call {
        bool is_map = true;
        std::uint64_t guest_address = 0;
        std::uint64_t length_bytes = 0;
        Lease lease;             // of a map
        std::uint32_t prot = 0;  // of a map
        int error = 0;           // what was answered
    };

    explicit RecordingMapper(std::size_t most_calls = 65536) : most_calls_(most_calls == 0 ? 1 : most_calls) {}

    [[nodiscard]] int map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept override;
    [[nodiscard]] int unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept override;

    // The next `count` calls of that kind answer so.
    void fail_maps(int error, std::size_t count = 1) noexcept;
    void fail_unmaps(int error, std::size_t count = 1) noexcept;
    // The newest `most_calls`, oldest first; they are forgotten then.
    [[nodiscard]] std::vector<Call> take_calls();
    [[nodiscard]] std::uint64_t call_count() const noexcept;

private:
    struct Failure {
        int error = 0;
        std::size_t count = 0;
        [[nodiscard]] int next() noexcept { return count > 0 ? (--count, error) : 0; }
    };
    void keep(const Call& call) noexcept;

    std::size_t most_calls_;
    mutable std::mutex mutex_;
    std::vector<Call> calls_;
    std::size_t oldest_ = 0;
    std::uint64_t count_ = 0;
    Failure map_failure_;
    Failure unmap_failure_;
};

}  // namespace vmthaw
