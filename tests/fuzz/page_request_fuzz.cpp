#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fuzz_check.hpp"
#include "source/socket/page_request_reader.hpp"

// What an exporter's client sends: any bytes in any pieces. The requests that come out are those of the bytes, in
// order; whatever is not refused lies inside the memory, and neighbours are put together only where they are
// neighbours. The choices are the input's end, so that a seed is requests with a few bytes behind them.
namespace {

using vmthaw::ExportLimits;
using vmthaw::PageRequest;
using vmthaw::PageRequestReader;
using vmthaw::RequestRun;
using Wide = unsigned __int128;

constexpr std::uint64_t kPage = 4096;

bool is_servable(const PageRequest& request, const ExportLimits& limits) {
    const std::uint64_t size = request.page_size;
    const Wide end = (Wide{limits.start} + limits.size + kPage - 1) / kPage * kPage;
    return size >= kPage && (size & (size - 1)) == 0 && size <= limits.max_page_size && request.ipa % kPage == 0 &&
           request.ipa >= limits.start && Wide{request.ipa} + size <= end &&
           request.ipa < Wide{limits.start} + limits.size;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzedDataProvider input(data, size);
    ExportLimits limits;
    limits.start = input.ConsumeIntegralInRange<std::uint64_t>(0, 8) * kPage;
    limits.size = input.ConsumeIntegralInRange<std::uint64_t>(1, 64 * kPage);
    if (input.ConsumeBool()) {  // near the end of 64 bits
        limits.start = ~std::uint64_t{0} - 80 * kPage + 1;
    }
    limits.max_page_size = kPage << input.ConsumeIntegralInRange<unsigned>(0, 18);
    const std::size_t max_requests = input.ConsumeIntegralInRange<std::size_t>(1, 9);
    const std::uint64_t max_run = kPage << input.ConsumeIntegralInRange<unsigned>(0, 6);
    const bool by_bytes = input.ConsumeBool();
    std::vector<std::byte> stream;
    for (const std::uint8_t byte : input.ConsumeRemainingBytes<std::uint8_t>()) {
        stream.push_back(static_cast<std::byte>(byte));
    }
    PageRequestReader reader(limits, max_requests);
    std::vector<PageRequest> taken;
    for (std::size_t at = 0; at < stream.size();) {
        const auto room = reader.room();
        FUZZ_CHECK(!room.empty());
        const std::size_t part = by_bytes ? 1 : std::min(room.size(), stream.size() - at);
        std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(at), part, room.begin());
        at += part;
        reader.received(part);
        FUZZ_CHECK(reader.is_inside_request() == (at % vmthaw::kPageRequestBytes != 0));
        for (RequestRun run = reader.take_run(max_run); !run.requests.empty(); run = reader.take_run(max_run)) {
            std::uint64_t bytes = 0;
            for (const PageRequest& request : run.requests) {
                FUZZ_CHECK(is_servable(request, limits) == (run.problem == nullptr));
                FUZZ_CHECK(request.ipa == run.requests.front().ipa + bytes);
                bytes += request.page_size;
                taken.push_back(request);
            }
            FUZZ_CHECK(run.problem == nullptr || run.requests.size() == 1);
            FUZZ_CHECK(run.requests.size() == 1 || bytes <= max_run);
            FUZZ_CHECK(run.bytes == bytes);
        }
    }
    FUZZ_CHECK(taken.size() == stream.size() / vmthaw::kPageRequestBytes);
    for (std::size_t i = 0; i < taken.size(); ++i) {
        const auto bytes = std::span<const std::byte>(stream).subspan(i * vmthaw::kPageRequestBytes);
        FUZZ_CHECK(taken[i] == vmthaw::decode(bytes.first<vmthaw::kPageRequestBytes>()));
    }
    return 0;
}
