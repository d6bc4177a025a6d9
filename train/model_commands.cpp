// Commands that use a trained model: generate, eval.
#include <CLI/CLI.hpp>
#include <memory>

#include "train/commands.h"
#include "train/eval.h"
#include "train/generate.h"

namespace plimsoll {
namespace {

void add_generate_command(CLI::App& app, int& status) {
    CLI::App* command = app.add_subcommand("generate", "text from a trained model, on the CPU");
    const auto options = std::make_shared<GenerateCommand>();
    command->add_option("run", options->run, "RUN, or RUN/checkpoints/step_N")->required();
    command->add_option("--prompt", options->prompt, "text to go on from; without it, standard input");
    command->add_option("--max-tokens", options->options.max_tokens, "most tokens to generate")->capture_default_str();
    command
        ->add_option("--temperature", options->options.sampling.temperature,
                     "logits are divided by it; 0 = always the most likely token")
        ->capture_default_str();
    command->add_option("--top-k", options->options.sampling.top_k, "only the k most likely tokens; 0 = all")
        ->capture_default_str();
    command
        ->add_option("--top-p", options->options.sampling.top_p,
                     "only the most likely tokens that together reach this probability")
        ->capture_default_str();
    command->add_option("--seed", options->options.seed, "equal seeds give equal text")->capture_default_str();
    command->add_option("--streaming", options->window,
                        "go on beyond the context: keep so many tokens, at the positions they have among these");
    command->add_option("--sinks", options->sinks,
                        "with --streaming: first tokens that always stay; default: the placeholders, without them 4");
    command->add_option("--precision", options->precision, "fp32, bf16, fp64 or auto")
        ->check(CLI::IsMember({"auto", "fp32", "bf16", "fp64"}))
        ->capture_default_str();
    command->add_option("--threads", options->threads, "0 = all this process may use")->capture_default_str();
    command->callback([=, &status] { status = run_generate(*options); });
}

void add_eval_command(CLI::App& app, int& status) {
    CLI::App* command = app.add_subcommand("eval", "measure a trained model, on the CPU");
    const auto options = std::make_shared<EvalOptions>();
    command->add_option("run", options->run, "RUN, or RUN/checkpoints/step_N")->required();
    command->add_option("--suite", options->suites, fmt::format("{}", fmt::join(eval_suites(), ", ")))
        ->delimiter(',')
        ->allow_extra_args(false)
        ->required();
    command->add_option("--json", options->json, "file for scripts/eval_report.py");
    command->add_option("--data", options->data, "text to evaluate on, instead of the run's validation split");
    command->add_option("--precision", options->precision, "fp32, bf16, fp64 or auto; default: the run's")
        ->check(CLI::IsMember({"auto", "fp32", "bf16", "fp64"}));
    command->add_option("--threads", options->threads, "0 = all this process may use")->capture_default_str();
    command->add_option("--samples", options->samples,
                        "ppl: validation rows, 0 = all; default: the run's train.eval_samples");
    command->add_option("--window", options->window, "streaming: tokens in the cache; default: half of the context");
    command->add_option("--stream-tokens", options->stream_tokens,
                        "streaming: length of the stream; default: 24 contexts");
    command
        ->add_option("--dense-targets", options->dense_targets,
                     "streaming: targets whose window is computed again from nothing")
        ->capture_default_str();
    command
        ->add_option("--length-tokens", options->length_tokens,
                     "extrapolation: tokens at each length, at least one row")
        ->capture_default_str();
    command->add_option("--trials", options->trials, "needle: trials at each length and depth")->capture_default_str();
    command->add_option("--choices", options->choices, "multiple_choice: JSON lines of query, choices, answer");
    command
        ->add_option("--intervene", options->interventions,
                     "interventions: layer=1,head=0,kind=zero, repeated, instead of a battery; kinds zero, identity, "
                     "first (with value=GAMMA), zero_attention, zero_mlp, zero_block; without layer or head: all; "
                     "A+B makes both")
        ->allow_extra_args(false);
    command->add_option("--contrast", options->contrast,
                        "analysis: a second text, on which the same heads may do something else");
    command->callback([=, &status] { status = run_eval(*options); });
}

}  // namespace

void add_model_commands(CLI::App& app, int& status) {
    add_generate_command(app, status);
    add_eval_command(app, status);
}

}  // namespace plimsoll
