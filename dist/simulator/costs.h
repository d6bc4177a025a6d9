// What the pieces of a step take: the only place where a model's shape and hardware become seconds and bytes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dist/cad/plan.h"

namespace plimsoll {

// A LLaMA-like transformer: SwiGLU, no biases, untied embedding and head.
struct ModelShape {
    int64_t layers = 32;
    int64_t channels = 4096;
    int64_t heads = 32;
    int64_t kv_heads = 8;
    int64_t head_size = 128;
    int64_t ffn = 14336;
    int64_t vocab = 128256;

    int64_t query_channels() const { return heads * head_size; }
    int64_t key_channels() const { return kv_heads * head_size; }
    int64_t block_parameters() const;  // of the matrices of one block
    int64_t parameters() const;
    // Forward, 2 per multiplication and addition: per token and block, per token of the head, per query-key pair.
    double linear_flops() const { return 2.0 * static_cast<double>(block_parameters()); }
    double head_flops() const { return 2.0 * static_cast<double>(channels * vocab); }
    double pair_flops() const { return 4.0 * static_cast<double>(query_channels()); }
};

// GPUs, all alike, and what connects them. Rates are those of one GPU.
struct ClusterModel {
    int64_t nodes = 1;
    int64_t gpus_per_node = 1;
    double flops = 1;                 // per second, dense bf16 of the data sheet
    double gemm_efficiency = 1;       // share of it that matrix products reach
    double attention_efficiency = 1;  // and core attention, forward
    double attention_floor = 0;       // least seconds of a launch of core attention
    double backward_linear = 2;       // backward over forward, matrix products
    double backward_attention = 2.5;  // and core attention
    double intra_bandwidth = 1;       // bytes per second within a node, each way
    double inter_bandwidth = 1;       // and between nodes
    double latency = 0;               // seconds per message
    double copy_bandwidth = 1;        // bytes per second packed into or unpacked from buffers
    double memory = 0;                // bytes

    int64_t gpus() const { return nodes * gpus_per_node; }
};

// One direction of a step, for one rank (a tensor-parallel group, if there is one) and one block.
struct DirectionCosts {
    double token = 0;            // seconds of a block's linear pieces, per token
    double head_token = 0;       // seconds of the network's head, per token
    double pair = 0;             // seconds of core attention, per query-key pair
    double attention_floor = 0;  // least seconds of one launch of core attention
    double copied_byte = 0;      // seconds to pack or unpack a byte
    CaCosts bytes;               // what tasks of core attention move

    double linear(int64_t tokens) const { return token * static_cast<double>(tokens); }
    double attention(int64_t pairs) const {
        return pairs > 0 ? std::max(attention_floor, pair * static_cast<double>(pairs)) : 0;
    }
};

// Between ranks.
struct NetworkCosts {
    double intra_byte = 0, inter_byte = 0;  // seconds per byte sent, and received, within a node and beyond it
    double latency = 0;                     // seconds per peer of an all-to-all
    double host = 0;                        // seconds an all-to-all takes of a rank that computes meanwhile
    int64_t ranks_per_node = 1;
};

// Bytes of one rank (one GPU of a tensor-parallel group).
struct MemoryCosts {
    double fixed = 0;        // parameters, gradients and optimizer state of a pipeline stage
    double token_block = 0;  // activations of a token in a block, from forward until backward
    double key_block = 0;    // keys and values of a token in a block
    double buffer_byte = 1;  // of a byte that a rank sends or receives
};

struct StepCosts {
    int64_t blocks = 1;  // of a pipeline stage
    DirectionCosts forward, backward;
    NetworkCosts network;
    MemoryCosts memory;
    double message_token = 0;        // seconds per token of a message between pipeline stages
    double gradient_reduction = 0;   // seconds of the reduce-scatter of a stage's gradients; hides under backward
    double parameter_gathering = 0;  // of the all-gather of its parameters; hides under forward
    double optimizer = 0;            // seconds of the update
};

// How GPUs share the work. data x context x stages x tensor GPUs.
struct ParallelShape {
    int64_t tensor = 8;
    int64_t stages = 1;
    int64_t columns = 8;  // data x context ranks
};

struct CostOptions {
    bool resend = true;  // backward sends queries and keys again; false: servers keep them, one plan serves both
    int64_t gradient_bytes = 2;    // per element of keys' gradients on their way home: 2 or 4
    bool light_recompute = false;  // norms and the activation function again in backward instead of keeping results
};

// Tensor parallelism divides every piece by `tensor` and adds four collectives per block and direction (all-gather and
// reduce-scatter around attention and MLP, Korthikanti et al., arXiv:2205.05198) that nothing hides.
StepCosts step_costs(const ModelShape& model, const ClusterModel& cluster, const ParallelShape& shape,
                     const CostOptions& options);

}  // namespace plimsoll
