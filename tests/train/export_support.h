// What the tests of exported files share: models with random parameters, and hostile changes of a file.
#pragma once

#include <cmath>
#include <cstring>

#include "data/data_test_support.h"
#include "kernels/random.h"
#include "support/tiny_network.h"
#include "train/export/gguf_export.h"
#include "train/logits.h"
#include "train/trained_model.h"

namespace plimsoll {

// Every parameter random, gains and sink logits too, so that none can be mistaken for another.
inline TrainedModel random_model(const NetworkConfig& network, DType dtype = DType::kF32) {
    RunConfig config;
    config.model = network.model, config.attention = network.attention, config.loss = network.loss;
    TrainedModel model(config, network.vocab, dtype);
    for (const Parameter& p : model.table().entries()) {
        const RandomStream stream(7, "export test", p.name);
        const Tensor values = model.parameter(p.name);
        for (int64_t i = 0; i < values.elements(); ++i) {
            const double value = 0.3 * stream.normal(static_cast<uint64_t>(i));
            if (dtype == DType::kF64)
                values.ptr<double>()[i] = value;
            else
                values.ptr<float>()[i] = static_cast<float>(value);
        }
    }
    model.set_origin(
        {.path = "test", .run = "", .step = 12, .tokens = 345, .data_hash = "abc", .tensors_hash = "def", .build = ""});
    return model;
}

inline std::string bytes_of_tensor(Tensor t) {
    return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())};
}

// Logits of the ids 0, 1, 2, ... in fp32.
inline std::vector<double> some_logits(TrainedModel& model) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < std::min(model.network().model.context, model.network().total_vocab()); ++i)
        ids.push_back(static_cast<int32_t>(i));
    return logits_of(model, ids, DType::kF32, 2);
}

// `text` with the first `from` replaced.
inline std::string with(std::string text, std::string_view from, std::string_view to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

template <class T>
std::string raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

}  // namespace plimsoll
