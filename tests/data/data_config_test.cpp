#include "data/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

struct KeyCollector {
    std::set<std::string> keys;
    int repeated = 0;
    template <class Field>
    void field(std::string_view key, Field&, std::string_view doc) {
        add(key, doc);
    }
    void list(std::string_view key, std::vector<std::string>&, std::string_view doc) { add(key, doc); }
    void choice(std::string_view key, std::string&, std::initializer_list<std::string_view>, std::string_view doc) {
        add(key, doc);
    }
    void add(std::string_view key, std::string_view doc) {
        EXPECT_FALSE(doc.empty()) << key;
        if (!keys.insert(std::string(key)).second) ++repeated;
    }
};

TEST(DataConfig, VisitorListsEveryKeyOnce) {
    DataConfig config;
    KeyCollector collector;
    DataConfig::visit(config, collector);
    EXPECT_EQ(collector.repeated, 0);
    EXPECT_EQ(collector.keys.size(), 22u);
}

TEST(DataConfig, DefaultsAreValid) {
    EXPECT_NO_THROW(DataConfig().validate());
}

TEST(DataConfig, MixtureLinesAreWeightKindAndPath) {
    DataConfig config;
    config.source = "mixture";
    config.sources = {"0.7 shards web text/train_*.bin", "3 text b.txt"};
    const auto specs = config.training_sources();
    ASSERT_EQ(specs.size(), 2u);
    EXPECT_EQ(specs[0].weight, 0.7);
    EXPECT_EQ(specs[0].kind, "shards");
    EXPECT_EQ(specs[0].path, "web text/train_*.bin");
    EXPECT_EQ(specs[1].weight, 3.0);
}

TEST(DataConfig, ValuesThatCannotBeUsedNameTheirKey) {
    const auto refuse = [](std::initializer_list<std::string_view> parts,
                           const std::function<void(DataConfig&)>& change) {
        DataConfig config;
        change(config);
        expect_error(ExitCode::kBadInput, parts, [&] { config.validate(); });
    };
    refuse({"data.source = 'txt'", "'bigram_backcopy', 'text', 'shards', 'mixture'"},
           [](auto& c) { c.source = "txt"; });
    refuse({"data.sampling = 'all'", "'windows', 'random'"}, [](auto& c) { c.sampling = "all"; });
    refuse({"data.end = 'loop'"}, [](auto& c) { c.end = "loop"; });
    refuse({"data.tokenizer = 'bpe'"}, [](auto& c) { c.tokenizer = "bpe"; });
    refuse({"data.text is empty"}, [](auto& c) { c.source = "text"; });
    refuse({"data.shards is empty"}, [](auto& c) { c.source = "shards"; });
    refuse({"data.sources has 0"}, [](auto& c) { c.source = "mixture"; });
    refuse({"data.sources has 1"}, [](auto& c) { c.sources = {"1 text a"}; });
    for (const char* line : {"text a.txt", "0 text a.txt", "-1 text a.txt", "1 csv a.txt", "1 text", ""}) {
        refuse({"data.sources: '" + std::string(line) + "'", "WEIGHT text|shards PATH"}, [line](auto& c) {
            c.source = "mixture";
            c.sources = {line};
        });
    }
    for (const double fraction : {-0.1, 1.0, std::nan("")}) {
        refuse({"data.val_fraction"}, [fraction](auto& c) { c.val_fraction = fraction; });
    }
    refuse({"data.val_samples = -1"}, [](auto& c) { c.val_samples = -1; });
    refuse({"data.train_samples = -1"}, [](auto& c) { c.train_samples = -1; });
    refuse({"data.train_samples = 3", "data.source = 'text'"}, [](auto& c) {
        c.source = "text";
        c.text = "a";
        c.train_samples = 3;
    });
    refuse({"data.train_samples = 3", "data.documents = 'pretrain'"}, [](auto& c) {
        c.documents = "pretrain";
        c.document_mask = true;
        c.train_samples = 3;
    });
    refuse({"data.vocab_size = -1"}, [](auto& c) { c.vocab_size = -1; });
    refuse({"data.eot_token = -2"}, [](auto& c) { c.eot_token = -2; });
    refuse({"data.end = 'stop'", "data.sampling = 'random'"}, [](auto& c) {
        c.source = "text";
        c.text = "a";
        c.sampling = "random";
        c.end = "stop";
    });
    refuse({"data.document_mask"}, [](auto& c) { c.document_mask = true; });
    refuse({"data.end = 'stop'", "train.max_steps"}, [](auto& c) { c.end = "stop"; });
    refuse({"data.val_text"}, [](auto& c) { c.val_text = "a"; });
    for (const int64_t k : {int64_t{-1}, int64_t{256}, INT64_MAX})
        refuse({"data.triggers = ", "0 to 255"}, [k](auto& c) { c.triggers = k; });
    refuse({"data.task = 'copy'", "'bb', 'backward', 'markov', 'delimiter'"}, [](auto& c) { c.task = "copy"; });
    refuse({"data.task = 'markov'", "bigram_backcopy's"},
           [](auto& c) { c.source = c.text = "text", c.task = "markov"; });
    for (const double p : {0.0, 1.0, std::nan("")})
        refuse({"data.delimiter", "above 0 and below 1"}, [p](auto& c) { c.task = "delimiter", c.delimiter = p; });
}

}  // namespace
}  // namespace plimsoll
