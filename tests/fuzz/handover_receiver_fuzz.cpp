#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "fuzz_check.hpp"
#include "handover/handover_receiver.hpp"
#include "userfaultfd/userfaultfd_factory.hpp"

// A whole hand-over through a socket: any text, split anywhere, descriptors of any kind with any part. The receiver
// must end as the parser does, whatever the splits, leak no descriptor, and say why it failed. The text is the input's
// beginning and the choices its end, so that a seed is a message with a few bytes behind it.
namespace {

using vmthaw::HandoverReceiver;
using vmthaw::HandoverStatus;
using vmthaw::UniqueFd;

const UniqueFd& a_userfaultfd() {
    static const UniqueFd fd = [] {
        try {
            return vmthaw::UserfaultfdFactory().create().release();
        } catch (const vmthaw::Error&) {
            return UniqueFd();  // not allowed here: the other paths are still worth it
        }
    }();
    return fd;
}

const UniqueFd& something_else() {
    static const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return fd;
}

int lowest_free_descriptor() {
    const UniqueFd probe(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    return probe.get();
}

void send_part(int socket, std::string_view part, const std::vector<int>& descriptors) {
    alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
    iovec vector{const_cast<char*>(part.data()), part.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
        std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
    }
    // A full socket buffer, or a receiver that has given up, ends the sending: both are fine.
    static_cast<void>(::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

std::optional<std::vector<vmthaw::Region>> parsed(std::string_view text) {
    try {
        return vmthaw::parse_handover_message(text);
    } catch (const vmthaw::Error&) {
        return std::nullopt;
    }
}

struct Sent {
    std::string_view text;
    int first_descriptor = -1;
    bool whole = true;  // everything was sent before the first step
};

void check_outcome(HandoverReceiver& receiver, const Sent& sent, bool closed) {
    if (receiver.status() == HandoverStatus::complete) {
        const vmthaw::Handover handover = receiver.take();
        FUZZ_CHECK(sent.first_descriptor == a_userfaultfd().get());
        FUZZ_CHECK(handover.userfaultfd.fd() >= 0 && handover.socket.get() >= 0);
        if (sent.whole) {
            FUZZ_CHECK(parsed(sent.text) == handover.regions);
        }
    } else if (receiver.status() == HandoverStatus::failed) {
        FUZZ_CHECK(!receiver.failure().text.empty());
        FUZZ_CHECK(receiver.failure().class_name == "HandoverError");
        FUZZ_CHECK(receiver.fd() == -1);
        FUZZ_CHECK(!sent.whole || sent.first_descriptor != a_userfaultfd().get() || a_userfaultfd().get() < 0 ||
                   !parsed(sent.text));
    } else {
        FUZZ_CHECK(!closed);
        FUZZ_CHECK(!receiver.pending_problem().empty());
        FUZZ_CHECK(sent.first_descriptor < 0 || vmthaw::handover_message_is_incomplete(sent.text));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static_cast<void>(a_userfaultfd());
    static_cast<void>(something_else());
    const int free_before = lowest_free_descriptor();
    {
        FuzzedDataProvider input(data, size);
        const std::size_t part_count = input.ConsumeIntegralInRange<std::size_t>(1, 8);
        std::vector<std::uint8_t> choices;
        for (std::size_t i = 0; i < part_count; ++i) {
            choices.push_back(input.ConsumeIntegral<std::uint8_t>());
        }
        const bool close_at_end = input.ConsumeBool();
        const bool step_often = input.ConsumeBool();
        const std::string text = input.ConsumeRemainingBytesAsString();

        int sockets[2] = {-1, -1};
        FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
        UniqueFd theirs(sockets[0]);
        HandoverReceiver receiver((UniqueFd(sockets[1])));
        Sent sent{{}, -1, !step_often};
        std::size_t at = 0;
        for (std::size_t i = 0; i < part_count; ++i) {
            // Low bits: how much of the rest; high bits: the descriptors that go with it.
            const std::size_t rest = text.size() - at;
            const std::size_t length = i + 1 == part_count ? rest : rest * (choices[i] & 15U) / 16;
            std::vector<int> descriptors;
            for (unsigned bit = 4; bit < 8; ++bit) {
                const int fd = bit < 6 ? a_userfaultfd().get() : something_else().get();
                if (((choices[i] >> bit) & 1U) != 0 && fd >= 0 && length > 0) {
                    descriptors.push_back(fd);
                }
            }
            if (length > 0) {
                send_part(theirs.get(), std::string_view(text).substr(at, length), descriptors);
                if (sent.first_descriptor < 0 && !descriptors.empty()) {
                    sent.first_descriptor = descriptors.front();
                }
            }
            at += length;
            sent.text = std::string_view(text).substr(0, at);
            if (step_often && receiver.step() != HandoverStatus::need_more) {
                break;
            }
        }
        if (close_at_end) {
            theirs.reset();
        }
        receiver.step();
        check_outcome(receiver, sent, close_at_end);
    }
    FUZZ_CHECK(lowest_free_descriptor() == free_before);
    return 0;
}
