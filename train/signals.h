// Ctrl-C, SIGTERM and SIGUSR1: the first asks the run to save and stop, a second SIGINT or SIGTERM ends the process at
// once.
#pragma once

namespace plimsoll {

// From here on SIGINT, SIGTERM and SIGUSR1 wait until they are counted, also over an exec: the first thing a program
// does, so that a launcher's signal does not kill what has hardly started.
void hold_signals();
// From here on they are counted. Before any thread is made.
void count_signals();
// Whether a signal came.
bool stop_requested();
// The first that came; 0 before one.
int stop_signal();

}  // namespace plimsoll
