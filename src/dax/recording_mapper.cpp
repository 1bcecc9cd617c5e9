#include "dax/recording_mapper.hpp"

#include <algorithm>
#include <new>
#include <utility>

namespace vmthaw {

void RecordingMapper::keep(const Call& call) noexcept {
    ++count_;
    if (calls_.size() < most_calls_) {
        try {
            calls_.push_back(call);
            return;
        } catch (const std::bad_alloc&) {
            most_calls_ = std::max<std::size_t>(calls_.size(), 1);
            if (calls_.empty()) {
                return;
            }
        }
    }
    calls_[oldest_] = call;
    oldest_ = (oldest_ + 1) % calls_.size();
}

int RecordingMapper::map(std::uint64_t guest_address, const Lease& lease, std::uint32_t prot) noexcept {
    const std::lock_guard lock(mutex_);
    const int error = map_failure_.next();
    keep({true, guest_address, lease.length_bytes, lease, prot, error});
    return error;
}

int RecordingMapper::unmap(std::uint64_t guest_address, std::uint64_t length_bytes) noexcept {
    const std::lock_guard lock(mutex_);
    const int error = unmap_failure_.next();
    keep({false, guest_address, length_bytes, {}, 0, error});
    return error;
}

void RecordingMapper::fail_maps(int error, std::size_t count) noexcept {
    const std::lock_guard lock(mutex_);
    map_failure_ = {error, count};
}

void RecordingMapper::fail_unmaps(int error, std::size_t count) noexcept {
    const std::lock_guard lock(mutex_);
    unmap_failure_ = {error, count};
}

std::vector<RecordingMapper::Call> RecordingMapper::take_calls() {
    const std::lock_guard lock(mutex_);
    std::rotate(calls_.begin(), calls_.begin() + static_cast<std::ptrdiff_t>(oldest_), calls_.end());
    oldest_ = 0;
    return std::exchange(calls_, {});
}

std::uint64_t RecordingMapper::call_count() const noexcept {
    const std::lock_guard lock(mutex_);
    return count_;
}

}  // namespace vmthaw
