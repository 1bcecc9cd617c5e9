#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmthaw {

// What a policy is told of a regular file that a client opens. `name` is its last name, or what the file system knows.
struct DaxFile {
    std::uint64_t node = 0;
    std::string name;
    std::uint64_t size_bytes = 0;
};

// Says which files are mapped into the client; the others are read and written by requests. Any thread.
class DaxPolicy {
public:
    DaxPolicy() = default;
    DaxPolicy(const DaxPolicy&) = delete;
    DaxPolicy& operator=(const DaxPolicy&) = delete;
    virtual ~DaxPolicy() = default;
    [[nodiscard]] virtual bool uses_dax(const DaxFile& file) noexcept = 0;
};

// By size and name: small files are slower when they are mapped. Patterns are those of fnmatch(3); a file without a
// name is left to its size. Immutable.
class DaxRules final : public DaxPolicy {
public:
    // A file is mapped if it has at least so many bytes, matches a pattern of `include` (all, when that is empty) and
    // none of `exclude`.
    DaxRules(std::uint64_t smallest_bytes, std::vector<std::string> include, std::vector<std::string> exclude);
    [[nodiscard]] bool uses_dax(const DaxFile& file) noexcept override;

private:
    std::uint64_t smallest_bytes_;
    std::vector<std::string> include_;
    std::vector<std::string> exclude_;
};

}  // namespace vmthaw
