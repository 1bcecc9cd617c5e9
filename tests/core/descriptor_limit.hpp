#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string_view>

#include "base/error.hpp"

namespace vmthaw {

// While it lives, every new descriptor of the process must be below `limit`. Any thread may lift it.
//
// Wants "OutOfDescriptors" in the test's name: the undefined sanitizer asks a pipe whether an object is readable and
// takes a pipe that could not be had for memory that could not be read, so test_sanitizers.py leaves these tests to
// other builds.
class DescriptorLimit {
public:
    explicit DescriptorLimit(rlim_t limit) {
        const std::string_view name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
        EXPECT_NE(name.find("OutOfDescriptors"), std::string_view::npos) << name << " runs out of descriptors";
        check_errno(::getrlimit(RLIMIT_NOFILE, &former_), "getrlimit");
        const rlimit tight{limit, former_.rlim_max};
        check_errno(::setrlimit(RLIMIT_NOFILE, &tight), "setrlimit");
    }
    ~DescriptorLimit() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &former_), 0); }
    DescriptorLimit(const DescriptorLimit&) = delete;
    DescriptorLimit& operator=(const DescriptorLimit&) = delete;

    void lift() const { check_errno(::setrlimit(RLIMIT_NOFILE, &former_), "setrlimit"); }

private:
    rlimit former_{};
};

}  // namespace vmthaw
