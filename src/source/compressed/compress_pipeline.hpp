#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/fork_guard.hpp"
#include "source/compressed/chunk_compressor.hpp"
#include "source/compressed/compress_file.hpp"

namespace vmthaw {

struct PackedChunk {
    std::vector<std::byte> frame;
    std::uint32_t bytes = 0;
    std::uint32_t checksum = 0;
    bool zero = false;
};

// Threads that read and compress the chunks of a source, a few ahead of whoever takes them in order. The destructor
// ends them. The constructor throws ArgumentError or SystemError; `source` must outlive this.
class CompressPipeline {
public:
    CompressPipeline(PageSource& source, const CompressOptions& options);
    CompressPipeline(const CompressPipeline&) = delete;
    CompressPipeline& operator=(const CompressPipeline&) = delete;
    CompressPipeline(CompressPipeline&&) = delete;
    CompressPipeline& operator=(CompressPipeline&&) = delete;
    ~CompressPipeline();

    [[nodiscard]] std::uint64_t chunks() const noexcept { return chunks_; }
    // The next chunk, or null when it is not there after a tenth of a second. Throws what a thread of it threw.
    [[nodiscard]] std::optional<PackedChunk> take();

private:
    void start(unsigned threads);
    void stop() noexcept;
    void run();
    [[nodiscard]] PackedChunk pack(std::uint64_t number, ChunkCompressor& compressor, std::vector<std::byte>& bytes);

    PageSource& source_;
    CompressOptions options_;
    int level_;
    std::uint64_t chunks_;
    ForkGuard fork_guard_;

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::optional<PackedChunk>> ready_;  // chunk n at n modulo its size
    std::uint64_t claimed_ = 0;
    std::uint64_t taken_ = 0;
    bool stopping_ = false;
    std::exception_ptr error_;
    std::vector<std::thread> threads_;
};

}  // namespace vmthaw
