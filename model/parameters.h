// The one list of parameters: names, shapes, initial values, weight decay, and where each lies in the flat buffers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/arena.h"
#include "model/config.h"

namespace plimsoll {

// How a parameter starts.
struct InitSpec {
    enum class Kind : uint8_t { kZero, kOne, kConstant, kNormal, kUniform } kind = Kind::kZero;
    double scale = 0;  // kConstant: the value; kNormal: standard deviation; kUniform: values in [-scale, scale)
};

// Initial values of the kinds of `model.init`.
class Initializer {
  public:
    explicit Initializer(const ModelConfig& model) : model_(model) {}
    InitSpec embedding() const;
    InitSpec linear(int64_t fan_in) const;
    // A projection back into the residual stream.
    InitSpec residual(int64_t fan_in) const;
    InitSpec bias(int64_t fan_in) const;

  private:
    bool pytorch() const { return model_.init == "pytorch"; }
    const ModelConfig& model_;
};

// A parameter of a block, named without the block's prefix.
struct ParameterSpec {
    std::string name;
    Shape shape;
    InitSpec init;
    bool matrix = false;  // as in Parameter
    bool sink = false;
    int64_t uses = 1;  // of a matrix: how many rows it multiplies per token
};

struct Parameter {
    std::string name;  // "blocks.3.attn.qkv.weight"
    Shape shape;       // linear weights are (out, in)
    InitSpec init;
    int64_t layer;   // block index; -1 before the blocks, L after them
    bool matrix;     // a linear weight or an embedding: decayed by optimizer.decay = "matrices"
    bool sink;       // a sink logit or a bias of scores: never decayed
    int64_t offset;  // first element in the flat buffer, a multiple of kParameterAlignment
    // Rows of the matrices that a linear weight of a block, gates excepted, stacks: of attn.qkv its queries, keys (if
    // they have one) and values, of SwiGLU's mlp.up its gate and its values, else all. Empty for every other parameter.
    std::vector<int64_t> stacked = {};
};

inline constexpr int64_t kParameterAlignment = 16;  // elements: one cache line of fp32

// Which part of the network a process holds: blocks [first_layer, last_layer), with the embedding and the head or not.
// A tied head on another stage than the embedding holds its own copy of wte.weight.
struct StageRange {
    int64_t first_layer = 0;
    int64_t last_layer = 0;
    bool embedding = true;
    bool head = true;
    static StageRange whole(const ModelConfig& model) { return {0, model.layers, true, true}; }
};

class ParameterTable {
  public:
    ParameterTable(const NetworkConfig& config, StageRange stage);

    const std::vector<Parameter>& entries() const { return entries_; }
    // Index of a name, or -1.
    int find(std::string_view name) const;
    // Elements of the flat buffer, gaps from alignment included.
    int64_t buffer_elements() const { return buffer_elements_; }
    // Parameters that are trained, and those that are not embeddings or the head.
    int64_t count() const;
    int64_t count_non_embedding() const;
    // A parameter's view into a flat buffer (parameters, gradients, moments, working copy); empty for index -1.
    Tensor view(Tensor buffer, int index) const;

  private:
    void add(std::string name, Shape shape, InitSpec init, int64_t layer, bool matrix, bool sink = false);
    void add_block(const NetworkConfig& config, int64_t layer);

    std::vector<Parameter> entries_;
    int64_t buffer_elements_ = 0;
};

// Fills the flat fp32 or fp64 buffer. A value depends on the seed, the parameter's name and the element's index alone,
// so parameters that two variants share start bit-equal; extra rows of a table do not change those before them.
void initialize(Tensor buffer, const ParameterTable& table, uint64_t seed, const Exec& exec);

}  // namespace plimsoll
