#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "bindings/bindings.hpp"
#include "kvm/vcpu.hpp"
#include "vcpu/exit_classifier.hpp"

namespace vmthaw::bindings {

// What Python calls Exit: the decoded exit with the elements of a port access, which KVM_RUN overwrites, and the vCPU
// that it is of, if any, so that it can be answered there. Made and destroyed with the GIL held.
struct ExitObject {
    Exit exit;
    std::string data;
    py::object owner;  // keeps the vCPU
    Vcpu* vcpu = nullptr;
    std::uint64_t run = 0;  // of the vCPU: another one has overwritten the mapping
};

[[nodiscard]] ExitObject keep_exit(const Exit& exit, std::span<const std::byte> run_bytes);
// The same for the last exit of a vCPU, which `owner` keeps alive.
[[nodiscard]] ExitObject keep_exit(const Exit& exit, Vcpu& vcpu, py::object owner);

// Gives the guest what it reads: the exit must be the vCPU's last. Throws ArgumentError when it is not a read of that
// many bytes.
void answer_exit(const Vcpu& vcpu, const ExitObject& exit, const py::bytes& data);

// An argument of an enumeration that is compared with the members themselves: the general conversion looks up a type
// and an attribute, which is most of what a short call costs. Filled in when the enumeration is made; GIL held.
template <typename Enum>
struct FastEnum {
    Enum value{};
    static inline std::array<std::pair<PyObject*, Enum>, 2> members{};
};

}  // namespace vmthaw::bindings

namespace pybind11::detail {

template <typename Enum>
struct fast_enum_caster {
    using Fast = vmthaw::bindings::FastEnum<Enum>;
    bool load(handle source, bool /*convert*/) {
        for (const auto& [member, number] : Fast::members) {
            if (source.ptr() == member) {
                value.value = number;
                return true;
            }
        }
        return false;
    }
    operator Fast&() { return value; }   // NOLINT(google-explicit-constructor): pybind11 asks for it
    operator Fast*() { return &value; }  // NOLINT(google-explicit-constructor)
    template <typename T>
    using cast_op_type = pybind11::detail::cast_op_type<T>;
    Fast value;
};
template <>
struct type_caster<vmthaw::bindings::FastEnum<vmthaw::ExitProfile>> : fast_enum_caster<vmthaw::ExitProfile> {
    static constexpr auto name = const_name("ExitProfile");
};
template <>
struct type_caster<vmthaw::bindings::FastEnum<vmthaw::GuestArch>> : fast_enum_caster<vmthaw::GuestArch> {
    static constexpr auto name = const_name("GuestArch");
};

}  // namespace pybind11::detail
