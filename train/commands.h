// The subcommands of the program.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace plimsoll {

// Adds every subcommand to `app`. Parsing runs the chosen one, which leaves the process's exit status in `status`.
// `arguments`: the command line as typed.
void add_commands(CLI::App& app, std::vector<std::string> arguments, int& status);

// train, rerun, inspect, plan
void add_training_commands(CLI::App& app, const std::string& command_line, int& status);
// export, import, logits
void add_export_commands(CLI::App& app, const std::string& command_line);
// generate, eval
void add_model_commands(CLI::App& app, int& status);
// simulate
void add_simulate_command(CLI::App& app, int& status);
// data prepare, data inspect, data encode, data decode, data bigrams
void add_data_commands(CLI::App& app);
// bench, doctor
void add_machine_commands(CLI::App& app, int& status);

}  // namespace plimsoll
