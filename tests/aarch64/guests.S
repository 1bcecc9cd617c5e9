// Guests for the tests of tests/aarch64: each is copied to the start of memory and entered there at EL1, with the MMU off.
// Tests put what they want to say into registers first. A guest that has failed takes an exception, and its vectors
// (guest_vectors) reset the machine.

#define COM1        0x0900      // << 16
#define LINE_STATUS 5
#define RECEIVED    1           // a bit of the line status
#define PSCI_CPU_ON       0xC4000003
#define PSCI_SYSTEM_OFF   0x84000008
#define PSCI_SYSTEM_RESET 0x84000009
#define PSCI_SYSTEM_RESET2 0xC4000012

.macro guest name
    .section .rodata.guest_\name, "a"
    .balign 4
    .globl guest_\name
    .hidden guest_\name
guest_\name:
.endm

.macro mark name        // a place that tests know by name; also where a guest ends
    .globl guest_\name
    .hidden guest_\name
guest_\name:
.endm

.macro psci function
    movz x0, #((\function) & 0xFFFF)
    movk x0, #((\function) >> 16), lsl 16
    hvc #0
    b .
.endm

guest vectors           // sixteen of 128 bytes
    .rept 16
    .balign 128
    psci PSCI_SYSTEM_RESET
    .endr
mark vectors_end

.macro spinning_vectors guest   // 0x800 behind the guest's start; a guest that gets here stays
    .org guest_\guest + 0x800
    .rept 16
    .balign 128
    b .
    .endr
.endm

guest powers_off
    psci PSCI_SYSTEM_OFF
mark powers_off_end

guest resets
    psci PSCI_SYSTEM_RESET
mark resets_end

guest resets_by_kind    // x1: the kind
    psci PSCI_SYSTEM_RESET2
mark resets_by_kind_end

guest starts_another    // x19: MPIDR of the other one, x20: its context
    mrs x0, mpidr_el1
    and x0, x0, #0xFF
    cbnz x0, 1f
    mov x1, x19
    adr x2, 2f
    mov x3, x20
    movz x0, #(PSCI_CPU_ON & 0xFFFF)
    movk x0, #(PSCI_CPU_ON >> 16), lsl 16
    hvc #0
    mov x21, x0         // PSCI's answer
1:  wfi
    b 1b
2:  movz x1, #COM1, lsl 16
    strb w0, [x1]       // its context
    psci PSCI_SYSTEM_OFF
mark starts_another_end

guest waits
1:  wfi
    b 1b
mark waits_end

guest says              // x19: the text, which a zero ends
    movz x1, #COM1, lsl 16
1:  ldrb w2, [x19], #1
    cbz w2, 3f
2:  ldrb w3, [x1, #LINE_STATUS]
    tbz w3, #5, 2b      // wait for the transmitter
    strb w2, [x1]
    b 1b
3:  psci PSCI_SYSTEM_OFF
mark says_end

guest answers           // sends back what it receives, in capitals
    movz x1, #COM1, lsl 16
    mov w4, #1
    strb w4, [x1, #2]   // FCR: the FIFO
1:  ldrb w3, [x1, #LINE_STATUS]
    tst w3, #RECEIVED
    b.eq 2f
    ldrb w2, [x1]
    and w2, w2, #0xFFFFFFDF
    strb w2, [x1]
    b 1b
2:  psci PSCI_SYSTEM_OFF
mark answers_end

guest loads_a_pair      // from a device: KVM has no syndrome for it
    movz x1, #COM1, lsl 16
    ldp w2, w3, [x1]
    b .
mark loads_a_pair_end

guest loads             // w21 from x19
    ldr w21, [x19]
    psci PSCI_SYSTEM_OFF    // PSCI's answers go to x0 to x3
mark loads_end

guest stores_and_loads  // w22 to x20, then w21 from x19
    str w22, [x20]
    dsb sy
    ldr w21, [x19]
    psci PSCI_SYSTEM_OFF
mark stores_and_loads_end

guest is_undefined
    udf #0
    spinning_vectors is_undefined
mark is_undefined_end

guest goes_nowhere      // to x19
    br x19
    spinning_vectors goes_nowhere
mark goes_nowhere_end

guest sets_registers    // x19 to x23: SP_EL1, SP_EL0, TTBR1_EL1, TTBR0_EL1, TCR_EL1
    mov sp, x19
    mov x1, #(3 << 20)
    msr cpacr_el1, x1       // vector registers may be used
    msr sp_el0, x20
    msr ttbr1_el1, x21
    msr ttbr0_el1, x22
    msr tcr_el1, x23
    isb
    movz x1, #COM1, lsl 16
    mov w2, #0x41
mark at_the_store
    strb w2, [x1]
mark at_the_load
    ldrb w2, [x1, #LINE_STATUS]
mark after_the_load
    add x5, x5, #1
    mov v3.d[1], x5
    strb w2, [x1]
    b .
mark sets_registers_end

guest counts            // in x19, with an exit every 4096 times
    movz x1, #COM1, lsl 16
1:  add x19, x19, #1
    tst x19, #0xFFF
    b.ne 1b
    ldrb w2, [x1, #LINE_STATUS]
    b 1b
mark counts_end

// Turns the MMU on and asks the processor about addresses. x0 to x3: TTBR0_EL1, TTBR1_EL1, TCR_EL1, MAIR_EL1;
// x4: the addresses; x5: how many; x6: room for four answers (PAR_EL1) to each: EL1 reads, EL1 writes, EL0 reads, EL0
// writes. At the end it stores x11 at x10.
guest asks_for_addresses
    msr ttbr0_el1, x0
    msr ttbr1_el1, x1
    msr tcr_el1, x2
    msr mair_el1, x3
    isb
    tlbi vmalle1
    dsb nsh
    isb
    mrs x7, sctlr_el1
    mov x8, #0x1005     // M, C, I
    orr x7, x7, x8
    msr sctlr_el1, x7
    isb
1:  cbz x5, 2f
    ldr x8, [x4], #8
    at s1e1r, x8
    isb
    mrs x9, par_el1
    str x9, [x6], #8
    at s1e1w, x8
    isb
    mrs x9, par_el1
    str x9, [x6], #8
    at s1e0r, x8
    isb
    mrs x9, par_el1
    str x9, [x6], #8
    at s1e0w, x8
    isb
    mrs x9, par_el1
    str x9, [x6], #8
    sub x5, x5, #1
    b 1b
2:  str x11, [x10]
    dsb sy
    psci PSCI_SYSTEM_OFF
mark asks_for_addresses_end

    .section .note.GNU-stack, "", %progbits
