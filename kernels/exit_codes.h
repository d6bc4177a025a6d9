// What each exit code of the program means: for --help, in the words of train/README.md.
#pragma once

#include <string_view>

#include "kernels/error.h"

namespace plimsoll {

struct ExitCodeMeaning {
    ExitCode code;
    std::string_view meaning;
};

// Every exit code, ascending.
inline constexpr ExitCodeMeaning kExitCodes[] = {
    {ExitCode::kOk, "done"},
    {ExitCode::kInternal,
     "a broken promise inside plimsoll, a loss that is not finite, or too many starts without progress"},
    {ExitCode::kIo, "reading or writing failed; the last step could not be saved"},
    {ExitCode::kTransient,
     "a passing fault, or the run belongs to a process that started later: running again may work"},
    {ExitCode::kBadInput,
     "configuration, command line, data or checkpoint that cannot be used; a plan that does not fit"},
    {ExitCode::kSavedOnSignal,
     "stopped by SIGINT, SIGTERM, SIGUSR1 or a time limit after saving: `--resume auto` goes on"},
    {ExitCode::kInterrupted, "a second signal: stopped at once"},
};

}  // namespace plimsoll
