#pragma once

#include <cerrno>
#include <mutex>
#include <new>

#include "dax/dax_session.hpp"

namespace vmthaw {

// One request's turn on a range of the window: holds the lock, and the range too when Python may be called.
class DaxSession::Turn {
public:
    Turn(DaxSession& session, const WindowRange& range) noexcept
        : session_(session), range_(range), lock_(session.mutex_) {
        if (session.calls_python_) {
            error_ = session.reservations_.reserve(lock_, range);
            reserved_ = error_ == 0;
        }
        if (error_ == 0 && session.closed_) {
            error_ = ENODEV;
        }
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
        session_.map_.give_back(spares);
        if (reserved_) {
            session_.reservations_.release(range_);
        }
    }

    [[nodiscard]] int error() const noexcept { return error_; }
    // Calls the backend or the mapper: without the lock when that may be Python.
    template <typename Call>
    [[nodiscard]] int call(Call what) noexcept {
        if (session_.calls_python_) {
            lock_.unlock();
        }
        const int error = what();
        if (session_.calls_python_) {
            lock_.lock();
        }
        return error < 0 ? EIO : error;
    }
    // False when the storage is not to be had.
    [[nodiscard]] bool take_spares() noexcept {
        try {
            session_.map_.take_spares(spares);
            return true;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }

    WindowMap::Spares spares;

private:
    DaxSession& session_;
    WindowRange range_;
    std::unique_lock<std::mutex> lock_;
    int error_ = 0;
    bool reserved_ = false;
};

}  // namespace vmthaw
