#include "train/signals.h"

#include <unistd.h>

#include <csignal>

#include "kernels/error.h"

namespace plimsoll {
namespace {

volatile std::sig_atomic_t g_signals = 0;

void on_signal(int) {
    const std::sig_atomic_t before = g_signals;
    g_signals = before + 1;
    if (before) _exit(static_cast<int>(ExitCode::kInterrupted));
}

}  // namespace

void install_signal_handlers() {
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

bool stop_requested() {
    return g_signals > 0;
}

}  // namespace plimsoll
