"""What the golden fixtures are: configurations, small enough to be written out in double precision."""

import gates_and_scales
import queries_and_keys

BASE = {
    "model.layers": 1, "model.channels": 16, "model.heads": 2, "model.kv_heads": 2, "model.head_size": 8,
    "model.ffn": 14, "model.activation": "swiglu", "model.norm": "rms", "model.norm_eps": 1e-5,
    "model.position": "rope", "model.rope_theta": 10000.0, "model.bias": False, "model.tied": True,
    "model.qk_norm": True, "vocab": 13, "T": 10,
    "attention.weighting": "softmax", "attention.extra_column": "none", "attention.extra_logit": 0.0,
    "attention.score_bias": "none", "attention.score_bias_value": 0.0, "attention.gate": "none",
    "attention.window": 0, "attention.pinned": 0, "attention.placeholders": 0, "loss.z_loss": 0.0,
}
# Keys that only the fixtures name that change them, with what others have: a new one leaves the other files alone.
OPTIONAL = {"attention.column_shared": False, "attention.value_bias": False, "attention.feature_map": "none",
            "loss.bos_decorrelation": 0.0, "attention.pattern": "causal", "attention.dilation": 2, "attention.prefix": 0,
            "attention.differential": "none", "attention.key_bias": "none"}
GPT2 = {"model.activation": "gelu", "model.norm": "layer", "model.position": "learned", "model.bias": True,
        "model.qk_norm": False}

# What each fixture changes. Sizes are small and mostly no multiples of a vector's width, so that tails are exercised.
FIXTURES = {
    "gpt2_softmax": GPT2 | {"model.layers": 2, "T": 9},
    "llama_softmax_gqa_qknorm": {"model.layers": 2, "model.channels": 18, "model.heads": 4, "model.kv_heads": 2,
                                 "model.head_size": 6, "T": 11},
    "llama_sink_logit": {"attention.extra_column": "learned", "model.qk_norm": False, "T": 11},
    "llama_softmax1_window": {"attention.extra_column": "constant", "attention.window": 4, "attention.pinned": 1,
                              "model.rope_theta": 500.0, "T": 12},
    "llama_sigmoid_logn": {"attention.weighting": "sigmoid", "attention.score_bias": "log_n", "T": 12},
    "llama_sigmoid_alibi_perrow": {"attention.weighting": "sigmoid", "attention.score_bias": "per_row",
                                   "model.position": "alibi", "model.heads": 3, "model.kv_heads": 3,
                                   "model.head_size": 5, "model.qk_norm": False, "model.tied": False},
    "llama_gate_elementwise": {"attention.gate": "elementwise"},
    "llama_gate_headwise_gqa": {"attention.gate": "headwise", "model.heads": 4, "model.kv_heads": 2,
                                "model.head_size": 4},
    "placeholder": {"attention.placeholders": 2, "model.position": "learned", "T": 12},
    "bb_softmax": {"model.activation": "relu", "model.norm": "layer", "model.position": "learned",
                   "model.qk_norm": False, "model.tied": False, "model.heads": 1, "model.kv_heads": 1,
                   "model.head_size": 16, "model.ffn": 24, "T": 12},
    "hybrid": {"model.layers": 2, "attention.weighting": ["softmax", "sigmoid"], "attention.score_bias": "log_n"},
    "z_loss": {"loss.z_loss": 0.02, "T": 9},
    "weighting_sigmoid_learned_bias": {"attention.weighting": "sigmoid", "attention.score_bias": "learned", "T": 12},
    "weighting_relu": {"attention.weighting": "relu", "attention.score_bias": "per_row", "attention.window": 4, "T": 11},
    "weighting_relu_learned_bias": {"attention.weighting": "relu", "attention.score_bias": "learned",
                                    "model.heads": 4, "model.kv_heads": 2, "model.head_size": 4},
    "weighting_elu1": {"attention.weighting": "elu1", "model.qk_norm": False},
    "weighting_elu1_normalized": {"attention.weighting": "elu1_normalized", "model.qk_norm": False, "T": 11},
    "weighting_linear": {"attention.weighting": "linear", "T": 9},
    "weighting_linear_normalized": {"attention.weighting": "linear_normalized", "model.qk_norm": False},
    "weighting_sigmoid_normalized": {"attention.weighting": "sigmoid_normalized", "attention.gate": "headwise"},
    "weighting_kernel_normalized": {"attention.weighting": "kernel_normalized", "model.qk_norm": False,
                                    "attention.window": 5},
    "weighting_uniform": {"attention.weighting": "uniform", "attention.window": 4, "attention.pinned": 1, "T": 11},
    "k_bias_gqa": {"attention.extra_column": "key", "model.heads": 4, "model.kv_heads": 2, "model.head_size": 6},
    "kv_bias_gate_window": {"attention.extra_column": "key_value", "attention.gate": "headwise", "attention.window": 4,
                            "attention.pinned": 1, "model.qk_norm": False, "T": 11},
    "v_bias_gate": {"attention.value_bias": True, "attention.gate": "elementwise"},
    "shared_columns": GPT2 | {"attention.extra_column": "key_value", "attention.value_bias": True,
                              "attention.column_shared": True, "T": 9},
    "map_elu1": {"attention.feature_map": "elu1", "model.qk_norm": False, "attention.window": 5},
    "map_mlp_gqa": {"attention.feature_map": "mlp", "model.heads": 4, "model.kv_heads": 2, "model.head_size": 6,
                    "attention.weighting": "sigmoid", "attention.score_bias": "log_n", "model.ffn": 16},
    "prefix_lm": {"attention.prefix": 4, "attention.placeholders": 1, "T": 12},
    "prefix_sigmoid_alibi_window": {"attention.prefix": 5, "attention.window": 3, "attention.weighting": "sigmoid",
                                    "attention.score_bias": "per_row", "model.position": "alibi", "T": 11},
    "patterns": {"model.layers": 3, "attention.pattern": ["dilated", "strided", "blocked"], "attention.window": 3,
                 "attention.pinned": 1, "attention.placeholders": 1, "T": 12},
    "differential_v1_gqa": {"attention.differential": "v1", "model.layers": 2, "model.heads": 4, "model.kv_heads": 2,
                            "model.head_size": 4},
    "bos_decorrelation": {"loss.bos_decorrelation": 0.7, "model.layers": 2, "attention.placeholders": 1, "T": 12},
    "differential_v2_gqa": {"attention.differential": "v2", "model.heads": 4, "model.kv_heads": 2, "T": 11},
    "value_key_bias_gqa": {"attention.key_bias": "value", "model.layers": 2, "model.heads": 4, "model.kv_heads": 2,
                           "model.head_size": 6, "attention.weighting": ["softmax", "sigmoid"],
                           "attention.gate_value": "headwise", "attention.window": 5, "T": 11},
}
NUMBERED = 22  # so many have seeds by their place in the list, later ones by their names
FIXTURES |= gates_and_scales.FIXTURES | queries_and_keys.FIXTURES


def option(config, key):
    return config.get(key, OPTIONAL[key])
