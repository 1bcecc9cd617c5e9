#pragma once

#include <memory>

#include "dax/dax_decisions.hpp"
#include "dax/dax_session.hpp"
#include "fuse/dax_target.hpp"

namespace vmthaw {

// A DaxSession behind a dispatcher. The session's backend is to be the dispatcher's file system, whose nodes the
// client's requests name. Without decisions every regular file is mapped. Any thread.
class DaxSessionTarget final : public DaxTarget {
public:
    // Throws ArgumentError.
    explicit DaxSessionTarget(std::shared_ptr<DaxSession> session, std::shared_ptr<DaxDecisions> decisions = nullptr);

    [[nodiscard]] int setup_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept override;
    [[nodiscard]] int remove_mapping(std::uint64_t node, std::span<const std::byte> body) noexcept override;
    void reset() noexcept override;
    [[nodiscard]] std::uint16_t map_alignment() const noexcept override;
    [[nodiscard]] bool uses_dax(std::uint64_t node, const FuseAttr& attr, std::string_view name) noexcept override;
    void opened(std::uint64_t node) noexcept override;
    void forgotten(std::uint64_t node) noexcept override;

private:
    std::shared_ptr<DaxSession> session_;
    std::shared_ptr<DaxDecisions> decisions_;
};

}  // namespace vmthaw
