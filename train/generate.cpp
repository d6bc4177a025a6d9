#include "train/generate.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "data/utf8.h"
#include "kernels/random.h"
#include "kernels/rope.h"
#include "train/host_weights.h"
#include "train/machine.h"
#include "train/signals.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

constexpr int64_t kPromptChunk = 256;  // tokens of a prompt forwarded together

// Standard input, all of it: a prompt is a text, not a file of gigabytes.
std::string read_standard_input() {
    constexpr size_t kMost = size_t{64} << 20;
    if (isatty(STDIN_FILENO)) fmt::print(stderr, "prompt (Ctrl-D ends it):\n");
    std::string text;
    char buffer[1 << 16];
    while (const size_t count = std::fread(buffer, 1, sizeof buffer, stdin)) {
        text.append(buffer, count);
        if (text.size() > kMost) fail_input("the prompt on standard input is longer than {} MiB", kMost >> 20);
    }
    if (std::ferror(stdin)) fail_io("reading the prompt from standard input failed");
    return text;
}

std::string speed(int64_t tokens, double seconds) {
    return fmt::format("{} tokens in {:.3f} s ({:.0f} tokens/s)", tokens, seconds,
                       seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0);
}

void print_text(const std::string& text, bool terminal) {
    const std::string shown = terminal ? for_terminal(text) : text;
    if (std::fwrite(shown.data(), 1, shown.size(), stdout) != shown.size() || std::fflush(stdout) != 0)
        fail_io("writing text to standard output failed");
}

}  // namespace

std::vector<int32_t> prompt_beginning(const NetworkConfig& network, const Tokenizer& tokenizer) {
    std::vector<int32_t> ids;
    for (int64_t p = 0; p < network.attention.placeholders; ++p) ids.push_back(static_cast<int32_t>(network.vocab + p));
    if (tokenizer.eot_token() >= 0) ids.push_back(tokenizer.eot_token());
    return ids;
}

std::vector<int32_t> prompt_ids(const NetworkConfig& network, const Tokenizer& tokenizer, std::string_view text) {
    if (text.empty() && tokenizer.eot_token() < 0)
        fail_input(
            "the prompt is empty, and the tokenizer has no end-of-text token to begin with: give --prompt, or a text "
            "on standard input");
    std::vector<int32_t> ids = prompt_beginning(network, tokenizer);
    tokenizer.encode(text, ids);
    return ids;
}

Generated generate(Decoder& decoder, std::span<const int32_t> prompt, int64_t ids, int32_t eot,
                   const GenerateOptions& options, const std::function<bool(int32_t)>& on_token) {
    Sampler sampler(options.sampling, ids);
    const RandomStream stream(options.seed, "generate");
    Generated result;
    double start = now_seconds();
    decoder.append(prompt);
    result.prompt_seconds = now_seconds() - start;
    start = now_seconds();
    for (int64_t n = 0; n < options.max_tokens; ++n) {
        const int32_t id = sampler.draw(decoder.logits(), stream.uniform(static_cast<uint64_t>(n)));
        if (id == eot) {
            result.reason = StopReason::kEndOfText;
            break;
        }
        result.ids.push_back(id);
        if (!on_token(id)) {
            result.reason = StopReason::kAsked;
            break;
        }
        if (n + 1 == options.max_tokens) break;
        if (decoder.room() == 0) {
            result.reason = StopReason::kCacheFull;
            break;
        }
        decoder.append({&id, 1});
    }
    result.seconds = now_seconds() - start;
    return result;
}

void check_prompt(const char* name, size_t tokens, const NetworkConfig& network) {
    const int64_t prefix = network.attention.prefix;
    if (prefix > 1 && static_cast<int64_t>(tokens) < prefix)
        fail_input(
            "{} has {} tokens (placeholders and the beginning of a document included), but the model has "
            "attention.prefix = {}: it learned to go on from that many tokens and more; give a longer text",
            name, tokens, prefix);
}

StreamingCache streaming_cache(const NetworkConfig& network, int64_t window, int64_t sinks) {
    const int64_t k = network.attention.placeholders;
    if (sinks < 0) sinks = std::min(k > 0 ? k : 4, window - 1);
    if (window < 1 || window > network.model.context)
        fail_input("--streaming is {}, must lie in 1 .. {}, the context that the model was trained with", window,
                   network.model.context);
    if (sinks >= window) fail_input("--sinks is {}, must be below --streaming = {}", sinks, window);
    return {.start = sinks, .recent = window - sinks};
}

DecoderOptions streaming_options(const NetworkConfig& network, StreamingCache cache, int64_t chunk) {
    DecoderOptions options{.cache = {.streaming = cache}, .chunk = chunk};
    if (network.model.position == "rope")
        options.cache.frequencies = rope_frequencies(network.model.rope_theta, network.model.head_channels());
    return options;
}

std::string for_terminal(std::string_view text) {
    constexpr char32_t kReplacement = 0xFFFD;
    std::string shown;
    for (size_t at = 0; at < text.size();) {
        const Utf8Symbol symbol = utf8_symbol(text, at);
        const char32_t code = symbol.code;
        const bool control = (code < 0x20 && code != U'\n' && code != U'\t') || (code >= 0x7F && code < 0xA0);
        append_utf8(code == kInvalidByte || control ? kReplacement : code, shown);
        at += symbol.bytes;
    }
    return shown;
}

int run_generate(const GenerateCommand& command) {
    check_range("--max-tokens", command.options.max_tokens, 0, int64_t{1} << 40);
    const TrainedModel model = load_trained_model(command.run, [](const std::string& passed_over) {
        fmt::print(stderr, "plimsoll: warning: {}\n", passed_over);
    });
    const NetworkConfig& network = model.network();
    const Tokenizer* tokenizer = model.tokenizer();
    if (!tokenizer)
        fail_input("'{}' has no tokenizer ({}), so there is no text to generate", command.run,
                   model.config().data.source == "bigram_backcopy" ? "data.source = \"bigram_backcopy\""
                                                                   : "no tokenizer.json beside it");
    const int64_t ids = std::min(network.vocab, tokenizer->vocab_size());
    const Sampler checked(command.options.sampling, ids);  // options are refused before a prompt is read
    std::optional<StreamingCache> stream;
    if (command.window != 0) stream = streaming_cache(network, command.window, command.sinks);
    if (command.sinks >= 0 && !stream) fail_input("--sinks goes with --streaming");

    const std::vector<int32_t> prompt =
        prompt_ids(network, *tokenizer, command.prompt ? *command.prompt : read_standard_input());
    check_prompt("the prompt", prompt.size(), network);
    const auto length = static_cast<int64_t>(prompt.size());
    const int64_t context = network.model.context;
    if (!stream && length > context)
        fail_input(
            "the prompt has {} tokens (placeholders and the beginning of a document included), the model was trained "
            "on {} positions: shorten it, or let it stream with --streaming {}",
            length, context, context);
    const Exec exec{.threads = threads_of(command.threads)};
    const HostWeights weights(model, {compute_dtype(command.precision)}, exec);
    const DecoderOptions options =
        stream ? streaming_options(network, *stream, std::min(kPromptChunk, length))
               : DecoderOptions{.cache = {.tokens = std::min(context, length + command.options.max_tokens)},
                                .chunk = std::min(kPromptChunk, length)};
    Decoder decoder(network, weights.weights(), options, exec);

    const bool terminal = isatty(STDOUT_FILENO);
    Utf8Stream characters;
    const Generated result = generate(decoder, prompt, ids, tokenizer->eot_token(), command.options, [&](int32_t id) {
        print_text(characters.push(tokenizer->token_bytes(id)), terminal);
        return !stop_requested();
    });
    print_text(characters.finish() + (terminal ? "\n" : ""), terminal);
    fmt::print(stderr, "{}, step {}, {}: prompt {}; generated {}\n", model.origin().path, model.origin().step,
               name_of(compute_dtype(command.precision)), speed(length, result.prompt_seconds),
               speed(static_cast<int64_t>(result.ids.size()), result.seconds));
    if (result.reason == StopReason::kCacheFull)
        fmt::print(stderr, "stopped: the context of {} tokens is full; --streaming {} goes on\n", context, context);
    return static_cast<int>(result.reason == StopReason::kAsked ? ExitCode::kInterrupted : ExitCode::kOk);
}

}  // namespace plimsoll
