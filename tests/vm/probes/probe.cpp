#include "probe.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

namespace probe {
namespace {

constexpr unsigned kLimitSeconds = 20;  // under software emulation a question takes up to a second
const char* g_question = "";

}  // namespace

void say(std::string_view what, std::string_view answer) {
    std::printf("%s.%.*s=%.*s\n", g_question, static_cast<int>(what.size()), what.data(),
                static_cast<int>(answer.size()), answer.data());
    static_cast<void>(std::fflush(stdout));
}

void fail(std::string_view what) {
    const std::string reason = std::strerror(errno);
    say("failed", std::string(what) + ": " + reason);
    _exit(1);
}

int ask_all(std::span<const Question> questions, const char* only) {
    for (const Question& question : questions) {
        if (only != nullptr && std::strcmp(only, question.name) != 0) {
            continue;
        }
        g_question = question.name;
        const pid_t child = fork();
        if (child < 0) {
            fail("fork");
        }
        if (child == 0) {
            alarm(kLimitSeconds);
            question.ask();
            _exit(0);
        }
        int status = 0;
        if (waitpid(child, &status, 0) == child && WIFSIGNALED(status)) {
            say("killed", sigabbrev_np(WTERMSIG(status)));
        }
    }
    return 0;
}

}  // namespace probe
