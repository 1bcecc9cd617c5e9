#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "source/compressed/chunked_source.hpp"
#include "source/file/backing_file.hpp"

namespace vmthaw {

// A memory in one compressed file: zstd's seekable format, or LZ4 frames. Chunks of zeros are known at open. Bytes come
// by pread(2): a file that shrinks is an error, never a SIGBUS. Thread-safe. The constructor throws
// Error(SourceOpenError).
class CompressedSource final : public ChunkedSource {
public:
    explicit CompressedSource(const std::string& path, std::uint64_t cache_bytes = kDefaultCacheBytes)
        : CompressedSource(BackingFile(path), cache_bytes) {}

    [[nodiscard]] std::string description() const override { return "compressed:" + file_.path(); }
    [[nodiscard]] std::string remedy(const ReadResult& result) const override;
    [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }

protected:
    [[nodiscard]] ReadResult fetch(std::size_t chunk, std::vector<std::byte>& packed) override;
    [[nodiscard]] ReadResult storage_whole() const noexcept override { return file_.still_whole(); }
    [[nodiscard]] std::string place_of(std::size_t chunk) const override;
    [[nodiscard]] std::string way_out() const override;

private:
    CompressedSource(BackingFile file, std::uint64_t cache_bytes);

    BackingFile file_;
};

}  // namespace vmthaw
