// Ctrl-C and SIGTERM: the first asks the run to save and stop, the second ends the process at once.
#pragma once

namespace plimsoll {

// Installs handlers for SIGINT, SIGTERM and SIGUSR1.
void install_signal_handlers();
// Whether a signal came.
bool stop_requested();

}  // namespace plimsoll
