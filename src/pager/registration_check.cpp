#include "pager/registration_check.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace vmthaw {
namespace {

// "7f0000000000-7f0000001000 rw-p ..." or nothing.
std::optional<UnregisteredRange> parse_header(std::string_view line) {
    UnregisteredRange range{};
    const char* end = line.data() + line.size();
    const auto first = std::from_chars(line.data(), end, range.start, 16);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') {
        return std::nullopt;
    }
    const auto second = std::from_chars(first.ptr + 1, end, range.end, 16);
    if (second.ec != std::errc() || second.ptr == end || *second.ptr != ' ' || range.end <= range.start) {
        return std::nullopt;
    }
    return range;
}

bool has_flag(std::string_view flags, std::string_view name) {
    for (std::size_t at = flags.find(name); at != std::string_view::npos; at = flags.find(name, at + 1)) {
        const bool starts = at > 0 && (flags[at - 1] == ' ' || flags[at - 1] == ':');
        const bool ends = at + name.size() >= flags.size() || flags[at + name.size()] == ' ';
        if (starts && ends) {
            return true;
        }
    }
    return false;
}

}  // namespace

std::vector<UnregisteredRange> find_unregistered_in(std::string_view smaps, const std::vector<Region>& regions) {
    std::vector<UnregisteredRange> lost;
    std::optional<UnregisteredRange> current;
    while (!smaps.empty()) {
        const std::size_t length = std::min(smaps.find('\n'), smaps.size());
        const std::string_view line = smaps.substr(0, length);
        smaps.remove_prefix(std::min(length + 1, smaps.size()));
        if (line.starts_with("VmFlags:")) {
            if (current && !has_flag(line, "um") && !has_flag(line, "ui")) {
                for (const Region& region : regions) {
                    const UnregisteredRange part{std::max(current->start, region.host_address),
                                                 std::min(current->end, region.host_end())};
                    if (part.start < part.end) {
                        lost.push_back(part);
                    }
                }
            }
            current.reset();
        } else if (const std::optional<UnregisteredRange> header = parse_header(line)) {
            current = header;
        }
    }
    return lost;
}

std::vector<UnregisteredRange> find_unregistered(pid_t pid, const std::vector<Region>& regions) {
    if (pid <= 0) {
        return {};
    }
    std::ifstream file("/proc/" + std::to_string(pid) + "/smaps");
    std::ostringstream text;
    text << file.rdbuf();
    return find_unregistered_in(text.str(), regions);
}

}  // namespace vmthaw
