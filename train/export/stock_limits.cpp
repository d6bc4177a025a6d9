#include "train/export/stock_limits.h"

#include "kernels/error.h"

namespace plimsoll {

std::string beyond_stock(const NetworkConfig& network) {
    const AttentionConfig& a = network.attention;
    for (int64_t layer = 0; layer < network.model.layers; ++layer) {
        const std::string& column = a.extra_column_at(layer);
        if (column == "key" || column == "key_value")
            return fmt::format("layer {} has {} bias (attention.extra_column = \"{}\"), a key that is no token's",
                               layer, column == "key" ? "K" : "KV", column);
    }
    for (int64_t layer = 0; layer < network.model.layers; ++layer)
        if (const std::string& source = AttentionConfig::at(a.qk_source, layer); source != "input")
            return fmt::format("layer {} maps queries and keys from another source (attention.qk_source = \"{}\")",
                               layer, source);
    if (a.query_key != "separate")
        return fmt::format("attention.query_key = \"{}\", one matrix for queries and keys", a.query_key);
    if (a.key_bias != "none")
        return fmt::format("attention.key_bias = \"{}\", a bias on every key's scores", a.key_bias);
    if (a.value_bias) return "attention.value_bias = true, a vector added to every head's output";
    if (a.feature_map != "none")
        return fmt::format("attention.feature_map = \"{}\", scores of mapped queries and keys", a.feature_map);
    if (a.differential != "none")
        return fmt::format("attention.differential = \"{}\", differences of score maps", a.differential);
    if (a.post_norm) return "a norm on the attention branch (attention.post_norm)";
    if (a.layer_scale != 0) return "a scale of the attention branch (attention.layer_scale)";
    struct Part {
        const char *what, *key;
        const std::vector<std::string>& kinds;
    };
    const Part parts[] = {{"a gate on values", "gate_value", a.gate_value},
                          {"a gate on keys", "gate_key", a.gate_key},
                          {"a gate on queries", "gate_query", a.gate_query},
                          {"a gate on the output projection", "gate_projection", a.gate_projection},
                          {"a temperature of queries", "query_temperature", a.query_temperature},
                          {"a temperature of values", "value_temperature", a.value_temperature}};
    for (int64_t layer = 0; layer < network.model.layers; ++layer) {
        for (const Part& part : parts)
            if (const std::string& kind = AttentionConfig::at(part.kinds, layer); kind != "none")
                return fmt::format("layer {} has {} (attention.{} = \"{}\")", layer, part.what, part.key, kind);
        const std::string& gate = a.gate_at(layer);
        if (gate == "none") continue;
        if (gate != "headwise" && gate != "elementwise")
            return fmt::format("layer {} has a gate that is {} (attention.gate)", layer, gate);
        if (!a.plain_gates())
            return fmt::format(
                "its gates are not products with a sigmoid (attention.gate_function = \"{}\", "
                "gate_combination = \"{}\")",
                a.gate_function, a.gate_combination);
        if (a.gate_input == "value")
            return "its gates are maps of values (attention.gate_input = \"value\"), not of the block's input";
        if (a.gate_bias) return "its gates have biases (attention.gate_bias)";
    }
    return "";
}

}  // namespace plimsoll
