#include "bindings/bindings.hpp"

// A table of contents: one register_* per room.
PYBIND11_MODULE(_core, module) {
    using namespace vmthaw::bindings;
    module.doc() = "The C++ core of vmthaw. Import `vmthaw` instead: names here may move.";
    module.attr("__version__") = VMTHAW_VERSION;
    register_errors(module);
    register_log(module);
    register_userfaultfd(module);
    register_source(module);
    register_pager(module);
    register_handover_message(module);
    register_handover(module);
    register_trace(module);  // adds to the PagerSession of the line above
    register_testing(module);
    register_exit_classifier(module);  // ExitAction, which Exit has
    register_exit(module);
    register_devices(module);
    register_virtio_mmio(module);
    register_dispatcher(module);
    register_vcpu(module);
    register_kvm(module);
    register_guest_memory(module);
    register_registers(module);  // reads the memory of the line above
    register_capture_benchmark(module);
    register_freeze(module);
    register_watchpoints(module);
    register_run_loop(module);
    register_exit_benchmark(module);
    register_snapshot(module);  // MachineState, which a machine restores
    register_machine(module);
    register_dax(module);  // SlotMapper takes a Vm
    register_dax_session(module);
    register_dax_benchmark(module);
    register_file_system(module);
    register_python_fs(module);
    register_fuse_dispatcher(module);
    register_passthrough_fs(module);
    register_fuse_server(module);
}
