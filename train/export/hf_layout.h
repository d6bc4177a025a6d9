// Networks as Hugging Face's transformers has them: config.json and names of tensors.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "train/export/tensor_map.h"

namespace plimsoll {

// What computes a network.
enum class HfKind : uint8_t {
    kLlama,       // LlamaForCausalLM; read also: Mistral and Qwen2, which differ in where they have biases
    kQwen3,       // Qwen3ForCausalLM: with QK-norm
    kQwen3Gated,  // Qwen3 with a gate on the attention output, in the layout of its authors' released models
                  // (github.com/qiuzh20/gated_attention); their modelling code computes it, transformers' own does not
    kGpt2,        // GPT2LMHeadModel
};

struct HfModel {
    HfKind kind = HfKind::kLlama;
    NetworkConfig network;
    // Which linear layers have biases in the file; in a network with biases the others' are zero.
    bool qkv_bias = false, out_bias = false, mlp_bias = false;
};

// A network as one of these. Throws Error (78) saying why for one that none of them computes.
HfModel hf_model(const NetworkConfig& network);
// From a config.json, `path`. Throws Error (78) naming the key for what cannot be read, is missing, or describes a
// network that plimsoll does not compute.
HfModel parse_hf_config(const std::string& text, const std::string& path);
// The other way round, without ids of special tokens and without the dtype.
nlohmann::ordered_json hf_config(const HfModel& model);

// Names, shapes and rows. A tied head has no tensor of its own.
std::vector<MappedTensor> hf_tensors(const HfModel& model);

}  // namespace plimsoll
