// A trained model as a GGUF file: for stock llama.cpp where that computes it, or for plimsoll itself.
#pragma once

#include <functional>
#include <string>

#include "train/export/gguf_file.h"
#include "train/trained_model.h"

namespace plimsoll {

struct GgufExportOptions {
    TensorType type = TensorType::kF32;  // of matrices; vectors and position embeddings stay f32
    bool own = false;                    // architecture plimsoll, whatever the model
};

struct GgufExportReport {
    std::string architecture;
    std::string since;  // a version of llama-cpp-python that has it, where older ones may not
    int64_t tensors = 0, bytes = 0;
    std::vector<std::string> notes;  // what whoever runs the file should know
};

// Writes the file; half a file never has its name. With q8_0, a matrix whose rows are no multiple of 32 is f16.
// Throws Error (78) for a model that no architecture of llama.cpp computes, saying why and what can be done.
GgufExportReport export_gguf(const TrainedModel& model, const std::string& path, const GgufExportOptions& options);

// Loads a file of architecture plimsoll. Of f32 tensors the parameters are those that were exported, to the bit.
// Throws Error (78), naming the file and what is wrong: another architecture, damage, keys or tensors that are not a
// network's.
TrainedModel load_gguf_model(const std::string& path);

// What is in a GGUF file, of any architecture: keys and tensors.
void inspect_gguf(const std::string& path, const std::function<void(const std::string&)>& write);

}  // namespace plimsoll
