// Ctrl-C and SIGTERM: the first asks the run to save and stop, the second ends the process at once.
#pragma once

namespace plimsoll {

// From here on SIGINT, SIGTERM and SIGUSR1 are counted. Before any thread is made.
void count_signals();
// Whether a signal came.
bool stop_requested();

}  // namespace plimsoll
