// Which architecture of stock llama.cpp computes a network, and which networks none does.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/config.h"

namespace plimsoll {

// The architecture of files that only plimsoll reads: every network can be one.
inline constexpr std::string_view kOwnArchitecture = "plimsoll";

// One row: what an architecture of llama.cpp can compute. Its features were read in the source of llama.cpp 0c1e57098,
// and each row is compared with it in tests/gguf.
struct GgufArchitecture {
    enum class Backbone : uint8_t { kLlama, kGpt2 };  // RMSNorm, RoPE, SwiGLU; or LayerNorm, learned positions, GELU
    enum class Choice : uint8_t { kNo, kYes, kEither };

    std::string_view name;
    Backbone backbone;
    Choice qk_norm;
    std::string_view gate;   // "none"; "headwise": in any layers; "elementwise": in every layer
    bool sinks;              // extra columns, learned or constant, in any layers
    bool windows;            // sliding windows, of one size, in any layers
    bool bias;               // of linear layers
    bool pairs;              // RoPE rotates (2i, 2i+1) instead of (i, i + HS/2)
    bool own_head;           // output.weight must be there, though it be the embedding's
    std::string_view since;  // a version of llama-cpp-python that has it, where older ones may not; empty = all
};
std::span<const GgufArchitecture> gguf_architectures();

// The first row that computes the network. Throws Error (78) saying what stands in the way, and what can be done: train
// otherwise, or --arch plimsoll.
const GgufArchitecture& gguf_architecture(const NetworkConfig& network);

// Whether any layer has a sliding window, a gate, an extra column.
bool has_windows(const NetworkConfig& network);
bool has_gate(const NetworkConfig& network, std::string_view kind);
bool has_sinks(const NetworkConfig& network);

}  // namespace plimsoll
