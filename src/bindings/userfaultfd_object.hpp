#pragma once

#include <memory>
#include <utility>

#include "base/error.hpp"
#include "userfaultfd/userfaultfd.hpp"

namespace vmthaw::bindings {

// What Python calls Userfaultfd: a Userfaultfd that can be closed while another thread is inside a call. That call
// keeps the descriptor open until it returns, so that no call ever meets a reused descriptor number. Locking: `held_`
// is read and written only with the GIL held; calls copy the pointer first and then release the GIL.
class UserfaultfdObject {
public:
    explicit UserfaultfdObject(Userfaultfd userfaultfd)
        : held_(std::make_shared<const Userfaultfd>(std::move(userfaultfd))) {}

    [[nodiscard]] std::shared_ptr<const Userfaultfd> get() const {
        if (!held_) {
            throw StateError("Userfaultfd is closed");
        }
        return held_;
    }
    [[nodiscard]] bool is_closed() const noexcept { return !held_; }
    void close() noexcept { held_.reset(); }

private:
    std::shared_ptr<const Userfaultfd> held_;
};

}  // namespace vmthaw::bindings
