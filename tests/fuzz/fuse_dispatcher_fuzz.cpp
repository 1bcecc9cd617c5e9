#include <fuzzer/FuzzedDataProvider.h>

#include <cerrno>
#include <memory>

#include "fuse_fuzz_bodies.hpp"
#include "fuse_fuzz_client.hpp"
#include "fuzz_check.hpp"

// The dispatcher over a file system in memory: requests that hold together in every field but one or none, and bytes at
// random. A model counts the look-ups and handles that replies gave: the file system must hold exactly these, and
// nothing once they are given back, or the client has gone.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    const auto fs = std::make_shared<vmthaw::MemoryFs>(vmthaw::MemoryFsConfig{1U << 18U, 64, 0, 0, 0755});
    vmthaw::FuseDispatcherConfig config;
    config.max_write_bytes = 16384;
    vmthaw::FuseDispatcher dispatcher(fs, config);
    vmthaw::FuseFuzzClient client(dispatcher, *fs, input);
    if (!input.ConsumeBool()) {
        client.begin();
    }
    for (int step = 0; step < 100 && input.remaining_bytes() > 0; ++step) {
        client.step();
        client.check();
    }
    if (input.ConsumeBool()) {
        client.give_everything_back();
    } else {
        dispatcher.reset();
    }
    FUZZ_CHECK(fs->held_nodes() == 0);
    FUZZ_CHECK(fs->open_handles() == 0);
    FUZZ_CHECK(fs->used_bytes() <= 1U << 18U);
    FUZZ_CHECK(fs->leases() == 0);
    return 0;
}
