#include "train/eval_data.h"

#include <filesystem>

#include "kernels/error.h"

namespace plimsoll {

EvalData::EvalData(const TrainedModel& model, const std::string& text) : model_(model), data_(model.config().data) {
    if (!text.empty()) {
        const std::string vocabulary = model.origin().run + "/tokenizer.json";
        if (!model.tokenizer() || !std::filesystem::exists(vocabulary))
            fail_input("--data is a text, but the model has no tokenizer: '{}' is not there", vocabulary);
        data_ = DataConfig{};
        data_.source = "text", data_.text = data_.val_text = text, data_.tokenizer_file = vocabulary;
    }
    if (!data_.has_validation())
        fail_input("the run has no validation split (data.val_fraction, data.val_samples); give --data TEXT");
}

Loader EvalData::open(const DataConfig& data, LoaderOptions options) const {
    options.seed = static_cast<uint64_t>(model_.config().run.seed);
    Loader loader(data, Split::kValidation, options);
    if (loader.vocab_size() != model_.network().vocab)
        fail_input("the data has {} ids, the model {}: it is not what the model was trained on", loader.vocab_size(),
                   model_.network().vocab);
    return loader;
}

Loader EvalData::rows() const {
    const RunConfig& config = model_.config();
    return open(data_, {.T = config.model.context,
                        .placeholders = config.attention.placeholders,
                        .shared_placeholders = config.train.shared_placeholders,
                        .prefix = config.attention.prefix});
}

Loader EvalData::rows_of(int64_t length) const {
    DataConfig data = data_;
    data.document_mask = false, data.documents = "row";
    return open(data, {.T = length});
}

EvalStream EvalData::stream(int64_t count) const {
    check(count > 0, "a stream of {} tokens", count);
    const Batch batch = rows_of(count).load(0, 1);
    EvalStream stream{batch.tokens, batch.targets};
    while (!stream.targets.empty() && stream.targets.back() < 0) stream.tokens.pop_back(), stream.targets.pop_back();
    return stream;
}

int64_t EvalData::bytes_of(int32_t id) const {
    const Tokenizer* tokenizer = model_.tokenizer();
    if (!tokenizer || id < 0 || id >= tokenizer->vocab_size()) return 0;
    return static_cast<int64_t>(tokenizer->token_bytes(id).size());
}

}  // namespace plimsoll
