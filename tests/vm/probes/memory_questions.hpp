#pragma once

// Questions about memory slots, userfaultfd below a guest, and ending a run: asked of every processor alike.

#include "probe.hpp"

#include <array>

namespace probe {

void ask_hole();
void ask_end_of_file();
void ask_read_only_mapping();
void ask_read_only_slot();
void ask_new_mapping();
void ask_dirty_log();
void ask_missing_pages();
void ask_poison();
void ask_immediate_exit();
void ask_kick();
void ask_waiting();

inline constexpr std::array kMemoryQuestions{
    Question{"hole", ask_hole},
    Question{"end_of_file", ask_end_of_file},
    Question{"read_only_mapping", ask_read_only_mapping},
    Question{"read_only_slot", ask_read_only_slot},
    Question{"new_mapping", ask_new_mapping},
    Question{"dirty_log", ask_dirty_log},
    Question{"missing_pages", ask_missing_pages},
    Question{"poison", ask_poison},
    Question{"immediate_exit", ask_immediate_exit},
    Question{"kick", ask_kick},
    Question{"waiting", ask_waiting},
};

}  // namespace probe
