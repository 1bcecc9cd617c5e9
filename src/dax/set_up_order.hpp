#pragma once

#include "dax/held_lease.hpp"

namespace vmthaw {

// The leases of a session by age of their set-up. Owns nothing, costs nothing: the links lie in the leases.
class SetUpOrder {
public:
    [[nodiscard]] HeldLease* oldest() const noexcept { return oldest_; }

    void add(HeldLease& lease) noexcept {
        lease.older = newest_;
        (newest_ != nullptr ? newest_->newer : oldest_) = &lease;
        newest_ = &lease;
    }

    void remove(HeldLease& lease) noexcept {
        (lease.older != nullptr ? lease.older->newer : oldest_) = lease.newer;
        (lease.newer != nullptr ? lease.newer->older : newest_) = lease.older;
        lease.older = lease.newer = nullptr;
    }

private:
    HeldLease* oldest_ = nullptr;
    HeldLease* newest_ = nullptr;
};

}  // namespace vmthaw
