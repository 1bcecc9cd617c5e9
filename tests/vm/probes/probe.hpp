#pragma once

// A probe asks a machine's KVM what it does, question by question, and prints lines "question.what=answer".

#include <span>
#include <string_view>

namespace probe {

struct Question {
    const char* name;
    void (*ask)();
};

// Prints one answer to the question that is being asked.
void say(std::string_view what, std::string_view answer);

// Ends the question: it cannot be asked here. Says "failed" with `what` and errno.
[[noreturn]] void fail(std::string_view what);

// Asks each question in a child with a time limit (one that is killed says "killed" and the signal). `only` names one.
int ask_all(std::span<const Question> questions, const char* only);

}  // namespace probe
