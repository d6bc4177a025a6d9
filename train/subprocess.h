// Other programs.
#pragma once

#include <string>
#include <vector>

namespace plimsoll {

struct FinishedProgram {
    int status = 0;      // as a shell gives it: 127 where there is no such program, 128 + N for signal N
    std::string output;  // standard output
};

// Runs a program, looked up in PATH, to its end; its standard error is this process's. Throws Error (74) if no process
// can be made.
FinishedProgram run_program(const std::vector<std::string>& words);

// In a child between fork and exec: replaces it by the program, which hears signals that plimsoll holds back. Ends the
// process with 127 if there is none.
[[noreturn]] void become_program(const std::vector<std::string>& words);

// The status of waitpid as a shell gives it.
int exit_status(int wait_status);

}  // namespace plimsoll
