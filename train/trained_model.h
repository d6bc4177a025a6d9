// A model that was trained, without its trainer: parameters, configuration and vocabulary.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "kernels/memory.h"
#include "model/transformer.h"
#include "train/checkpoint_file.h"
#include "train/config.h"

namespace plimsoll {

// Where a model comes from, and how far it was trained.
struct ModelOrigin {
    std::string path;          // the checkpoint's folder
    std::string run;           // the run's directory
    int64_t step = 0;          // updates done
    int64_t tokens = 0;        // trained on
    std::string data_hash;     // of the training data
    std::string tensors_hash;  // as `plimsoll inspect --hash` prints it
    std::string build;         // commit of the program that saved
};

class TrainedModel {
  public:
    // The parameters of a whole network, flat and laid out by ParameterTable, in host memory, fp32 or fp64.
    // `vocabulary`: names of ids, for label(); may be empty, as may `tokenizer`.
    TrainedModel(RunConfig config, int64_t vocab, DType dtype);

    // Every section that the model's source has: all of a run, `model`, `attention` and `loss` of a file.
    const RunConfig& config() const { return config_; }
    const NetworkConfig& network() const { return network_; }
    const ParameterTable& table() const { return table_; }
    // Flat, as they were stored: fp32, or fp64 of a run in that precision.
    Tensor parameters() const { return parameters_; }
    // One of them, of a name in the table; empty for any other.
    Tensor parameter(std::string_view name) const { return table_.view(parameters_, table_.find(name)); }

    const ModelOrigin& origin() const { return origin_; }
    // Null where the run's data have none (Bigram-Backcopy, shards without a tokenizer file) or it cannot be found.
    const Tokenizer* tokenizer() const { return tokenizer_.get(); }
    // A printable name of an id: a token's text, "<sink0>" for placeholders, the number where nothing names it.
    std::string label(int32_t id) const;

    // A network with these parameters, allocated on exec's device for micro batches of up to `tokens` tokens. Masters
    // are rounded or widened to precision.stream(), and the working copy is up to date. Logits of the precision that
    // the run had are those of its trainer to the bit.
    std::unique_ptr<Transformer> transformer(int64_t tokens, Precision precision, const Exec& exec,
                                             ActivationOptions options = {}) const;

    // The buffer of logits of networks made from now on holds `tokens` rows, whatever loss.logits_mib says.
    void keep_logits(int64_t tokens);

    void set_origin(ModelOrigin origin) { origin_ = std::move(origin); }
    void set_tokenizer(std::shared_ptr<const Tokenizer> tokenizer) { tokenizer_ = std::move(tokenizer); }
    void set_labels(std::vector<std::string> labels) { labels_ = std::move(labels); }

  private:
    RunConfig config_;
    NetworkConfig network_;
    ParameterTable table_;
    Memory memory_;
    Tensor parameters_;
    ModelOrigin origin_;
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::vector<std::string> labels_;
};

// The parameters as parts of a checkpoint, to save from or load into.
std::vector<CheckpointPart> parameter_parts(const TrainedModel& model);

// Loads the newest whole checkpoint of a run (`path` = RUN), or the one named (RUN/checkpoints/step_N), whatever number
// of ranks and pipeline stages saved it; or a GGUF file of architecture plimsoll. Every byte of a checkpoint is
// verified. `report` is told of each newer checkpoint that is damaged and was passed over, and why.
// Throws Error (78): no such folder, no run, a run without checkpoints, none of them whole, the one named damaged, or
// tensors that are not the configuration's.
TrainedModel load_trained_model(const std::string& path, const std::function<void(const std::string&)>& report);

}  // namespace plimsoll
