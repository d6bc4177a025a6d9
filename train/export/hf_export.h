// A trained model as a folder of Hugging Face's transformers, and such a folder as a run.
#pragma once

#include <string>
#include <vector>

#include "train/export/hf_layout.h"
#include "train/export/tensor_types.h"

namespace plimsoll {

struct HfReport {
    std::string architecture;  // of config.json
    int64_t tensors = 0;
    std::vector<std::string> notes;  // what whoever uses the result should know
};

// Writes config.json, model.safetensors and, of a model with a tokenizer, tokenizer.json, tokenizer_config.json and
// plimsoll_tokenizer.json; the folder is made. `type`: f32, f16 or bf16.
// Throws Error (78) for a model that no class there computes; (74) if it cannot be written.
HfReport export_safetensors(const TrainedModel& model, const std::string& folder, TensorType type);

// Makes RUN of such a folder: config.toml, run.json, a checkpoint of step 0 and, if plimsoll reads it, the tokenizer.
// Tensors may be in one file or in several with an index, in F32, F16, BF16 or F64; parameters are fp32.
// Throws Error (78), naming the file, for one that is damaged or describes a network that plimsoll does not compute,
// tensors that are missing or not the network's, and a RUN that holds a run; (74) if it cannot be written.
HfReport import_safetensors(const std::string& folder, const std::string& run, const std::string& command);

}  // namespace plimsoll
