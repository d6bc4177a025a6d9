// What the values of a configuration must be, and where a key that is wrong was set.
#include "train/config.h"

#include <algorithm>
#include <cctype>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Where the text names the key, and not one that only begins like it; npos if nowhere.
size_t find_key(std::string_view text, std::string_view key) {
    size_t at = text.find(key);
    while (at != text.npos && at + key.size() < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[at + key.size()])) || text[at + key.size()] == '_'))
        at = text.find(key, at + 1);
    return at;
}

void check_at_least(const char* key, double value, double low) {
    if (value < low) fail_input("{} is {}, must be at least {}", key, value, low);
}

}  // namespace

void check_naming_places(const std::map<std::string, std::string>& places, const std::function<void()>& check_values) {
    try {
        check_values();
    } catch (const Error& error) {
        const std::string message = error.what();
        size_t first = std::string::npos;
        std::string place;
        for (const auto& [key, set_at] : places)
            if (const size_t at = find_key(message, key); at < first) first = at, place = set_at + ": ";
        throw Error(error.code(), place + brief(message, 1000));
    }
}

void RunConfig::validate() const {
    check_naming_places(places, [&] { check_values(); });
}

void RunConfig::check_values() const {
    NetworkConfig{model, attention, loss, 0}.validate();
    data.validate();
    constexpr int64_t kMany = 1'000'000'000'000'000;  // no product or sum of two sizes below runs over
    check_range("run.seed", run.seed, 0, INT64_MAX);
    check_range("run.threads", run.threads, 0, 4096);
    check_range("train.micro_batch", train.micro_batch, 1, 1 << 20);
    check_range("train.batch_tokens", train.batch_tokens, 0, kMany);
    check_range("train.max_steps", train.max_steps, 0, kMany);
    check_range("train.max_tokens", train.max_tokens, 0, kMany);
    check_range("train.eval_every", train.eval_every, 0, kMany);
    check_range("train.eval_samples", train.eval_samples, 0, kMany);
    check_range("train.save_every", train.save_every, 0, kMany);
    check_range("train.keep", train.keep, 1, kMany);
    check_range("train.keep_every", train.keep_every, 0, kMany);
    check_range("train.log_every", train.log_every, 1, kMany);
    check_at_least("train.max_seconds", train.max_seconds, 0);
    check_range("train.max_restarts", train.max_restarts, 0, kMany);
    check_range("train.sample_every", train.sample_every, 0, kMany);
    check_range("train.sample_tokens", train.sample_tokens, 1, 1 << 24);
    check_range("parallel.virtual_ranks", parallel.virtual_ranks, 1, 4096);
    check_range("parallel.stages", parallel.stages, 1, 4096);
    check_range("parallel.chunks", parallel.chunks, 1, 4096);
    for (const auto& [key, value] : {std::pair{"cad.tolerance", cad.tolerance}, {"cad.min_gain", cad.min_gain}})
        if (!(value >= 0 && value <= 9)) fail_input("{} is {}, must lie in 0 .. 9", key, value);
    check_at_least("cad.byte_cap_mib", cad.byte_cap_mib, 0);
    for (const int64_t speed : cad.speeds) check_range("cad.speeds", speed, 1, 1 << 20);
    if (cad.mode == "on" && parallel.stages > 1 && parallel.schedule != "same-phase")
        fail_input(
            "cad.mode = \"on\" in a pipeline with parallel.schedule = \"{}\"; wanted \"same-phase\": all stages serve "
            "core attention at one time",
            parallel.schedule);
    if (const auto& sources = attention.qk_source;
        parallel.pipelined() && std::ranges::find(sources, "embedding") != sources.end())
        fail_input(
            "attention.qk_source = \"embedding\" in a pipeline (parallel.stages = {}, parallel.chunks = {}): only its "
            "first stage holds the embeddings; wanted 1 of each, or another attention.qk_source",
            parallel.stages, parallel.chunks);
    if (cad.mode == "on" && parallel.pipelined() && train.recompute == "block")
        fail_input("cad.mode = \"on\" in a pipeline with train.recompute = \"block\"; wanted \"none\" or \"light\"");
    if (cad.plans()) {
        if (attention.key_bias != "none")
            fail_input(
                "cad.mode = \"{}\" with attention.key_bias = \"{}\": the biases do not travel with the keys; wanted "
                "attention.key_bias = \"none\", or cad.mode = \"off\"",
                cad.mode, attention.key_bias);
        // Planner and dispatch know masks whose keys are the first ones and a window.
        if (attention.prefix > 1)
            fail_input(
                "cad.mode = \"{}\" with attention.prefix = {}: queries there see keys behind them, which are not "
                "planned for; wanted attention.prefix = 0, or cad.mode = \"off\"",
                cad.mode, attention.prefix);
        for (const std::string& pattern : attention.pattern)
            if (pattern != "causal")
                fail_input(
                    "cad.mode = \"{}\" with attention.pattern = \"{}\": planned for are the keys of a window and "
                    "pinned ones; wanted \"causal\", or cad.mode = \"off\"",
                    cad.mode, pattern);
    }
    check_range("health.max_skips", health.max_skips, 0, kMany);
    check_range("health.max_rollbacks", health.max_rollbacks, 0, kMany);
    check_range("health.window", health.window, 2, 1 << 20);
    check_range("health.hash_every", health.hash_every, 0, kMany);
    check_at_least("health.spike", health.spike, 0);
    check_at_least("parallel.timeout_seconds", parallel.timeout_seconds, 0.1);
    check_range("parallel.in_flight", parallel.in_flight, 0, 1 << 20);
    check_range("train.shared_placeholders", train.shared_placeholders, 0, model.context - 2);
    check_range("schedule.warmup_steps", schedule.warmup_steps, 0, kMany);
    check_range("probes.tokens", probes.tokens, 0, kMany);
    check_range("probes.samples", probes.samples, 1, 1 << 20);
    check_range("probes.map_tokens", probes.map_tokens, 1, kMany);
    check_at_least("train.clip", train.clip, 0);
    check_at_least("optimizer.lr", optimizer.lr, 0);
    check_at_least("optimizer.eps", optimizer.eps, 0);
    check_at_least("optimizer.weight_decay", optimizer.weight_decay, 0);
    // No name depends on the data's vocabulary.
    if (!optimizer.groups.empty())
        check_groups(optimizer.groups, ParameterTable({model, attention, loss, 1}, StageRange::whole(model)));
    check_at_least("probes.max_share", probes.max_share, 0);
    for (const auto& [key, value] : {std::pair{"optimizer.beta1", optimizer.beta1},
                                     {"optimizer.beta2", optimizer.beta2},
                                     {"optimizer.momentum", optimizer.momentum},
                                     {"optimizer.muon_momentum", optimizer.muon_momentum}})
        if (value < 0 || value >= 1) fail_input("{} is {}, must lie in [0, 1)", key, value);
    for (const auto& [key, value] : {std::pair{"schedule.final_fraction", schedule.final_fraction},
                                     {"schedule.decay_fraction", schedule.decay_fraction}})
        if (value < 0 || value > 1) fail_input("{} is {}, must lie in [0, 1]", key, value);
    if (probes.tokens == 1) fail_input("probes.tokens is 1, must be 0 (all) or at least 2");
    if (!train.max_steps && !train.max_tokens)
        fail_input("train.max_steps and train.max_tokens are both 0; set one of them");
    if (train.max_steps && train.max_tokens)
        fail_input("train.max_steps = {} and train.max_tokens = {} are both set; set one to 0", train.max_steps,
                   train.max_tokens);
    const int64_t micro = tokens_per_micro_batch();
    const int64_t below = std::max<int64_t>(1, batch_tokens() / micro) * micro;
    if (batch_tokens() % micro)
        fail_input(
            "train.batch_tokens is {}, not a multiple of micro_batch x context = {} x {} = {}; the nearest multiples "
            "are {} and {}",
            train.batch_tokens, train.micro_batch, model.context, micro, below, below + micro);
}

}  // namespace plimsoll
