#include "base/log.hpp"

namespace vmthaw {

void log_line(LogLevel /*level*/, const char* /*component*/, std::string_view /*text*/) noexcept {}

}  // namespace vmthaw
