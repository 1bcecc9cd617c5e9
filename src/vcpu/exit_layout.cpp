#include "vcpu/exit_layout.hpp"

#include <cstring>

#include "kernel/kvm.hpp"

namespace vmthaw {
namespace {

// Offset in the union, as the kernel's header counts.
consteval std::uint16_t in_payload(std::size_t offset) { return static_cast<std::uint16_t>(kKvmRunPayload + offset); }

constexpr ExitField kHardware[] = {{"hardware_exit_reason", in_payload(0), 8}};
constexpr ExitField kSetTpr[] = {{"cr8", kKvmRunCr8, 8}};
constexpr ExitField kTprAccess[] = {{"instruction_pointer", in_payload(0), 8}, {"is_write", in_payload(8), 4}};
constexpr ExitField kS390Sieic[] = {
    {"icptcode", in_payload(0), 1}, {"ipa", in_payload(2), 2}, {"ipb", in_payload(4), 4}};
constexpr ExitField kS390Reset[] = {{"flags", in_payload(0), 8}};
constexpr ExitField kDcr[] = {{"dcrn", in_payload(0), 4}, {"data", in_payload(4), 4}, {"is_write", in_payload(8), 1}};
constexpr ExitField kOsi[] = {{"gprs", in_payload(0), 8, 32}};
constexpr ExitField kPaprHcall[] = {
    {"number", in_payload(0), 8}, {"result", in_payload(8), 8}, {"arguments", in_payload(16), 8, 9}};
constexpr ExitField kS390Ucontrol[] = {{"trans_exc_code", in_payload(0), 8}, {"pgm_code", in_payload(8), 4}};
constexpr ExitField kS390Tsch[] = {{"subchannel_id", in_payload(0), 2}, {"subchannel_nr", in_payload(2), 2},
                                   {"io_int_parm", in_payload(4), 4},   {"io_int_word", in_payload(8), 4},
                                   {"ipb", in_payload(12), 4},          {"dequeued", in_payload(16), 1}};
constexpr ExitField kEpr[] = {{"epr", in_payload(0), 4}};
constexpr ExitField kS390Stsi[] = {{"guest_address", in_payload(0), 8},
                                   {"ar", in_payload(8), 1},
                                   {"fc", in_payload(10), 1},
                                   {"sel1", in_payload(11), 1},
                                   {"sel2", in_payload(12), 2}};
constexpr ExitField kIoapicEoi[] = {{"vector", in_payload(0), 1}};
constexpr ExitField kHypervSynic[] = {{"type", in_payload(0), 4},
                                      {"msr", in_payload(8), 4},
                                      {"control", in_payload(16), 8},
                                      {"event_page", in_payload(24), 8},
                                      {"message_page", in_payload(32), 8}};
constexpr ExitField kHypervHcall[] = {{"type", in_payload(0), 4},
                                      {"input", in_payload(8), 8},
                                      {"result", in_payload(16), 8},
                                      {"params", in_payload(24), 8, 2}};
constexpr ExitField kHypervSyndbg[] = {{"type", in_payload(0), 4},         {"msr", in_payload(8), 4},
                                       {"control", in_payload(16), 8},     {"status", in_payload(24), 8},
                                       {"send_page", in_payload(32), 8},   {"receive_page", in_payload(40), 8},
                                       {"pending_page", in_payload(48), 8}};
constexpr ExitField kHypervOther[] = {{"type", in_payload(0), 4}, {"words", in_payload(8), 8, 6}};
constexpr ExitField kArmNisv[] = {{"esr_iss", in_payload(0), 8}, {"guest_address", in_payload(8), 8}};
constexpr ExitField kBusLock[] = {{"flags", kKvmRunFlags, 2}};  // bit 1 is KVM_RUN_X86_BUS_LOCK
constexpr ExitField kXen[] = {{"type", in_payload(0), 4},    {"long_mode", in_payload(8), 4},
                              {"cpl", in_payload(12), 4},    {"input", in_payload(16), 8},
                              {"result", in_payload(24), 8}, {"params", in_payload(32), 8, 6}};
constexpr ExitField kRiscvSbi[] = {{"extension_id", in_payload(0), 8},
                                   {"function_id", in_payload(8), 8},
                                   {"arguments", in_payload(16), 8, 6},
                                   {"result", in_payload(64), 8, 2}};
constexpr ExitField kRiscvCsr[] = {{"number", in_payload(0), 8},
                                   {"new_value", in_payload(8), 8},
                                   {"write_mask", in_payload(16), 8},
                                   {"result", in_payload(24), 8}};
constexpr ExitField kNotify[] = {{"flags", in_payload(0), 4}};
constexpr ExitField kIocsr[] = {{"guest_address", in_payload(0), 8},
                                {"data", in_payload(8), 1, 8},
                                {"size_bytes", in_payload(16), 4},
                                {"is_write", in_payload(20), 1}};
constexpr ExitField kTdx[] = {{"flags", in_payload(0), 8},
                              {"number", in_payload(8), 8},
                              {"result", in_payload(16), 8},
                              {"data", in_payload(24), 8, 5}};
constexpr ExitField kArmSea[] = {{"flags", in_payload(0), 8},
                                 {"syndrome", in_payload(8), 8},
                                 {"guest_virtual_address", in_payload(16), 8},
                                 {"guest_address", in_payload(24), 8}};
constexpr ExitField kSnpReqCerts[] = {
    {"guest_address", in_payload(0), 8}, {"pages", in_payload(8), 8}, {"result", in_payload(16), 8}};

std::span<const ExitField> hyperv_fields(std::span<const std::byte> run_bytes) noexcept {
    std::uint32_t type = 0;
    std::memcpy(&type, run_bytes.data() + kKvmRunPayload, sizeof type);
    switch (type) {
        case 1:
            return kHypervSynic;
        case 2:
            return kHypervHcall;
        case 3:
            return kHypervSyndbg;
        default:
            return kHypervOther;
    }
}

}  // namespace

std::optional<std::span<const ExitField>> exit_fields(std::uint32_t reason,
                                                      std::span<const std::byte> run_bytes) noexcept {
    using Fields = std::span<const ExitField>;
    // The numbers in the order of kKvmExitNames.
    switch (reason) {
        case 0:  // UNKNOWN
            return kHardware;
        case 11:  // SET_TPR
            return kSetTpr;
        case 12:  // TPR_ACCESS
            return kTprAccess;
        case 13:  // S390_SIEIC
            return kS390Sieic;
        case 14:  // S390_RESET
            return kS390Reset;
        case 15:  // DCR
            return kDcr;
        case 18:  // OSI
            return kOsi;
        case 19:  // PAPR_HCALL
            return kPaprHcall;
        case 20:  // S390_UCONTROL
            return kS390Ucontrol;
        case 22:  // S390_TSCH
            return kS390Tsch;
        case 23:  // EPR
            return kEpr;
        case 25:  // S390_STSI
            return kS390Stsi;
        case 26:  // IOAPIC_EOI
            return kIoapicEoi;
        case 33:  // X86_BUS_LOCK
            return kBusLock;
        case 34:  // XEN
            return kXen;
        case 35:  // RISCV_SBI
            return kRiscvSbi;
        case 36:  // RISCV_CSR
            return kRiscvCsr;
        case 37:  // NOTIFY
            return kNotify;
        case 38:  // LOONGARCH_IOCSR
            return kIocsr;
        case 40:  // TDX
            return kTdx;
        case 41:  // ARM_SEA
            return kArmSea;
        case 28:  // ARM_NISV
        case 42:  // ARM_LDST64B
            return kArmNisv;
        case 43:  // SNP_REQ_CERTS
            return kSnpReqCerts;
        case kKvmExitHyperv:
            return hyperv_fields(run_bytes);
        case 7:   // IRQ_WINDOW_OPEN
        case 10:  // INTR
        case 16:  // NMI
        case 21:  // WATCHDOG
        case 31:  // DIRTY_RING_FULL
        case 32:  // AP_RESET_HOLD
            return Fields{};
        default:
            return std::nullopt;
    }
}

}  // namespace vmthaw
