#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "data/document_index.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

using Ids = std::vector<int32_t>;

// Shards whose token i has id i, so that a token says where it came from.
struct CountingShards {
    explicit CountingShards(int64_t tokens) {
        write_token_shard(folder / "x.bin", counting_ids(tokens), tokens);
        config.source = "shards";
        config.shards = folder / "x.bin";
        config.vocab_size = tokens;
        config.val_fraction = 0.0;
    }
    TemporaryFolder folder;
    DataConfig config;
};

DataConfig text_config() {
    DataConfig config;
    config.source = "text";
    config.text = excerpt_path();
    return config;
}

void expect_same(const Batch& whole, int64_t row, const Batch& part) {
    const auto slice = [&](const Ids& flat) {
        return Ids(flat.begin() + row * whole.T, flat.begin() + (row + part.B) * whole.T);
    };
    EXPECT_EQ(slice(whole.tokens), part.tokens);
    EXPECT_EQ(slice(whole.targets), part.targets);
    EXPECT_EQ(slice(whole.positions), part.positions);
}

// One loader, read from several threads, as prefetching and ranks in threads do. ThreadSanitizer runs this too.
TEST(Loader, ManyThreadsReadWhatOneReads) {
    CountingShards shards(5000);
    for (const DataConfig& config : {DataConfig(), text_config(), shards.config}) {
        const Loader loader(config, Split::kTrain, {.T = 16, .placeholders = 0, .seed = 4});
        const Batch whole = loader.load(0, 64);
        std::vector<std::vector<Batch>> parts(4);
        {
            std::vector<std::jthread> threads;
            for (size_t t = 0; t < parts.size(); ++t)
                threads.emplace_back([&, t] {
                    for (int64_t i = 0; i < 16; ++i)
                        parts[t].push_back(loader.load((i * 4 + static_cast<int64_t>(t) * 20) % 64, 4));
                });
        }
        for (size_t t = 0; t < parts.size(); ++t)
            for (int64_t i = 0; i < 16; ++i)
                expect_same(whole, (i * 4 + static_cast<int64_t>(t) * 20) % 64, parts[t][static_cast<size_t>(i)]);
    }
}

TEST(Loader, OrderIsIndependentOfHowSamplesAreSplitIntoBatches) {
    DataConfig mixture = text_config();
    mixture.source = "mixture";
    mixture.sources = {"0.7 text " + excerpt_path(), "0.3 text " + excerpt_path()};
    DataConfig random = text_config();
    random.sampling = "random";
    DataConfig documents = text_config();
    documents.document_mask = true;
    documents.document_separator = "\n\n";
    for (const DataConfig& config : {DataConfig(), text_config(), mixture, random, documents}) {
        const Loader loader(config, Split::kTrain, {.T = 32, .placeholders = 1, .seed = 4});
        const Batch whole = loader.load(900, 24);
        int64_t row = 0;
        for (const int64_t count : {1, 7, 4, 12}) {
            expect_same(whole, row, loader.load(900 + row, count));
            row += count;
        }
        const Loader resumed(config, Split::kTrain, {.T = 32, .placeholders = 1, .seed = 4});
        expect_same(whole, 20, resumed.load(920, 4));
        const Loader other(config, Split::kTrain, {.T = 32, .placeholders = 1, .seed = 5});
        EXPECT_NE(whole.tokens, other.load(900, 24).tokens) << loader.describe();
    }
}

TEST(Loader, EachEpochReadsEveryWindowOnceInANewOrderAndShifted) {
    const CountingShards shards(1003);
    const Loader loader(shards.config, Split::kTrain, {.T = 10, .seed = 1});
    const int64_t epoch = loader.samples_per_epoch();
    ASSERT_EQ(epoch, 99);
    EXPECT_EQ(loader.samples_available(), -1);
    std::set<std::vector<int32_t>> orders;
    std::set<int32_t> shifts;
    for (int64_t e = 0; e < 6; ++e) {
        Ids starts;
        for (int64_t i = 0; i < epoch; ++i) {
            const Batch batch = loader.load(e * epoch + i, 1);
            for (int64_t t = 0; t < 10; ++t) {
                ASSERT_EQ(batch.tokens[static_cast<size_t>(t)], batch.tokens[0] + t);
                ASSERT_EQ(batch.targets[static_cast<size_t>(t)], batch.tokens[0] + t + 1);
            }
            starts.push_back(batch.tokens[0]);
        }
        orders.insert(starts);
        std::sort(starts.begin(), starts.end());
        shifts.insert(starts.front());
        EXPECT_LT(starts.front(), 10);
        for (size_t i = 1; i < starts.size(); ++i) ASSERT_EQ(starts[i], starts[i - 1] + 10) << "epoch " << e;
        if (e == 0) {
            EXPECT_EQ(starts.front(), 0);
        }
    }
    EXPECT_EQ(orders.size(), 6u);
    EXPECT_GT(shifts.size(), 2u);
}

TEST(Loader, ShortestPossibleTextIsOneWindow) {
    const CountingShards shards(11);
    const Loader loader(shards.config, Split::kTrain, {.T = 10});
    EXPECT_EQ(loader.samples_per_epoch(), 1);
    for (int64_t epoch = 0; epoch < 5; ++epoch) EXPECT_EQ(loader.load(epoch, 1).tokens, counting_ids(10));
}

TEST(Loader, RandomWindowsReachBothEndsOfTheTextAndNothingElse) {
    CountingShards shards(15);
    shards.config.sampling = "random";
    const Loader loader(shards.config, Split::kTrain, {.T = 10});
    EXPECT_EQ(loader.samples_per_epoch(), -1);
    std::set<int32_t> starts;
    for (int64_t sample = 0; sample < 200; ++sample) starts.insert(loader.load(sample, 1).tokens[0]);
    EXPECT_EQ(starts, (std::set<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Loader, StopEndsAfterOneEpochAndSaysSo) {
    CountingShards shards(1003);
    shards.config.end = "stop";
    const Loader loader(shards.config, Split::kTrain, {.T = 10});
    EXPECT_EQ(loader.samples_available(), 99);
    EXPECT_NO_THROW(loader.load(98, 1));
    expect_error(ExitCode::kBadInput, {"samples 98 to 99", "holds 99", "data.end = 'stop'"},
                 [&] { loader.load(98, 2); });
}

TEST(Loader, StopEndsWhereTheFirstSourceOfAMixtureRunsOut) {
    const CountingShards big(1003), small(103);
    DataConfig config = big.config;
    config.source = "mixture";
    config.shards.clear();
    config.end = "stop";
    config.vocab_size = 1003;
    config.sources = {"0.5 shards " + big.config.shards, "0.5 shards " + small.config.shards};
    const Loader loader(config, Split::kTrain, {.T = 10});
    // 9 windows in the small source, every other sample, the big one or the small one first.
    EXPECT_GE(loader.samples_available(), 18);
    EXPECT_LE(loader.samples_available(), 19);
    EXPECT_EQ(loader.samples_per_epoch() / 2, 99);
    std::set<int32_t> small_starts;
    for (int64_t sample = 0; sample < loader.samples_available(); ++sample) {
        small_starts.insert(loader.load(sample, 1).tokens[0]);
    }
    for (int32_t start = 0; start < 90; start += 10) EXPECT_TRUE(small_starts.contains(start)) << start;
}

TEST(Loader, SourcesOfAMixtureAreShuffledIndependently) {
    const CountingShards shards(1003);
    DataConfig config = shards.config;
    config.source = "mixture";
    config.shards.clear();
    config.sources = {"1 shards " + (shards.folder / "x.bin"), "1 shards " + (shards.folder / "x.bin")};
    const Loader loader(config, Split::kTrain, {.T = 10});
    int64_t equal = 0;
    for (int64_t pair = 0; pair < 40; ++pair) {
        const Batch both = loader.load(2 * pair, 2);
        equal += both.tokens[0] == both.tokens[10] ? 1 : 0;
    }
    EXPECT_LE(equal, 4) << "by chance 1 in 99 agree";
}

TEST(Loader, TrainingNeverReachesIntoValidation) {
    CountingShards shards(1000);
    shards.config.val_fraction = 0.25;
    for (const std::string sampling : {"windows", "random"}) {
        shards.config.sampling = sampling;
        const Loader train(shards.config, Split::kTrain, {.T = 16, .seed = 2});
        for (int64_t sample = 0; sample < 500; ++sample) {
            const Batch batch = train.load(sample, 1);
            ASSERT_LT(*std::max_element(batch.targets.begin(), batch.targets.end()), 750) << sampling;
        }
    }
    const Loader validation(shards.config, Split::kValidation, {.T = 16});
    EXPECT_EQ(validation.load(0, 1).tokens[0], 750);
}

// nanoGPT's shakespeare_char: data[int(n * 0.9):].
TEST(Loader, ValidationSplitIsNanoGptsLastTenth) {
    const Loader loader(text_config(), Split::kValidation, {.T = 64});
    const std::string text = excerpt();
    const auto begin = static_cast<size_t>(static_cast<double>(text.size()) * 0.9);
    const Batch batch = loader.load(0, 1);
    EXPECT_EQ(loader.tokenizer()->decode(batch.tokens), text.substr(begin, 64));
    EXPECT_EQ(loader.samples_available(), static_cast<int64_t>((text.size() - begin - 1 + 63) / 64));
}

TEST(Loader, ValidationScoresEveryTokenButTheFirstOnceForEachNumberOfPlaceholders) {
    CountingShards shards(1000);
    shards.config.val_fraction = 0.3;
    for (const int64_t T : {7, 16, 299}) {
        for (const int64_t shared : {0, 1, 4}) {
            for (int64_t k = 0; k <= shared; ++k) {
                const Loader loader(shards.config, Split::kValidation,
                                    {.T = T, .placeholders = k, .shared_placeholders = shared});
                const Batch batch = loader.load(0, loader.samples_available());
                Ids scored;
                for (const int32_t id : batch.targets) {
                    if (id >= 0) scored.push_back(id);
                }
                std::sort(scored.begin(), scored.end());
                Ids expected = counting_ids(1000);
                expected.erase(expected.begin(), expected.begin() + 701);
                EXPECT_EQ(scored, expected) << "T " << T << " shared " << shared << " k " << k;
            }
        }
    }
}

TEST(Loader, ValidationHasAnEnd) {
    const Loader loader(text_config(), Split::kValidation, {.T = 64});
    expect_error(ExitCode::kBadInput, {"validation data holds"}, [&] { loader.load(loader.samples_available(), 1); });
}

TEST(Loader, SeparateValidationFileLeavesTheTrainingDataWhole) {
    CountingShards shards(400);
    write_token_shard(shards.folder / "val.bin", counting_ids(50), 400);
    shards.config.val_fraction = 0.5;
    shards.config.val_shards = shards.folder / "val.bin";
    const Loader train(shards.config, Split::kTrain, {.T = 10});
    const Loader validation(shards.config, Split::kValidation, {.T = 10});
    EXPECT_EQ(train.samples_per_epoch(), 39);
    EXPECT_EQ(validation.samples_available(), 5);
    EXPECT_EQ(validation.load(0, 1).tokens, counting_ids(10));
}

TEST(Loader, PlaceholderRunSeesTheSameSamplesCutByK) {
    DataConfig random = text_config();
    random.sampling = "random";
    for (const DataConfig& config : {DataConfig(), text_config(), random}) {
        const Loader plain(config, Split::kTrain, {.T = 24, .seed = 8});
        for (const int64_t k : {1, 3}) {
            const Loader sinks(config, Split::kTrain, {.T = 24, .placeholders = k, .seed = 8});
            EXPECT_EQ(sinks.total_vocab_size(), plain.vocab_size() + k);
            EXPECT_EQ(sinks.content_hash(), plain.content_hash());
            for (int64_t sample = 0; sample < 30; ++sample) {
                const Batch a = plain.load(sample, 1), b = sinks.load(sample, 1);
                for (int64_t t = 0; t < 24; ++t) {
                    const size_t at = static_cast<size_t>(t), real = static_cast<size_t>(t - k);
                    ASSERT_EQ(b.tokens[at], t < k ? plain.vocab_size() + t : a.tokens[real]);
                    ASSERT_EQ(b.targets[at], t < k ? -1 : a.targets[real]);
                }
            }
        }
    }
}

TEST(Loader, DocumentsOfAShardStartAtTheEotToken) {
    const TemporaryFolder folder;
    // eot = 9; the documents are {9 1 2}, {9 3}, {9 4 5 6}; the first window begins inside none.
    write_token_shard(folder / "x.bin", Ids{9, 1, 2, 9, 3, 9, 4, 5, 6}, 10);
    DataConfig config;
    config.source = "shards";
    config.shards = folder / "x.bin";
    config.vocab_size = 10;
    config.val_fraction = 0.0;
    config.document_mask = true;
    config.eot_token = 9;
    const Batch batch = Loader(config, Split::kTrain, {.T = 8}).load(0, 1);
    EXPECT_EQ(batch.tokens, (Ids{9, 1, 2, 9, 3, 9, 4, 5}));
    EXPECT_EQ(batch.targets, (Ids{1, 2, -1, 3, -1, 4, 5, 6}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1, 0, 1, 2}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 3, 5, 8}));
    config.eot_token = -1;
    expect_error(ExitCode::kBadInput, {"data.document_mask = true", "data.eot_token", ".idx"},
                 [&] { Loader(config, Split::kTrain, {.T = 8}); });
    write_document_index(folder / "x.bin", 9, std::vector<int64_t>{0, 3, 5});
    const Batch indexed = Loader(config, Split::kTrain, {.T = 8}).load(0, 1);
    EXPECT_EQ(indexed.targets, batch.targets);
    EXPECT_EQ(indexed.cu_seqlens, batch.cu_seqlens);
    config.eot_token = 10;
    expect_error(ExitCode::kBadInput, {"data.eot_token = 10", "10 ids"},
                 [&] { Loader(config, Split::kTrain, {.T = 8}); });
}

TEST(Loader, BigramBackcopyValidationIsItsOwnStream) {
    DataConfig config;
    config.val_samples = 40;
    const Loader train(config, Split::kTrain, {.T = 64, .seed = 1});
    const Loader validation(config, Split::kValidation, {.T = 64, .seed = 1});
    EXPECT_EQ(train.samples_available(), -1);
    EXPECT_EQ(validation.samples_available(), 40);
    ASSERT_NE(validation.bigram_backcopy(), nullptr);
    std::set<Ids> seen;
    for (int64_t sample = 0; sample < 40; ++sample) {
        seen.insert(train.load(sample, 1).tokens);
        seen.insert(validation.load(sample, 1).tokens);
    }
    EXPECT_EQ(seen.size(), 80u);
    EXPECT_EQ(train.label(67), "<sink0>");
    EXPECT_EQ(train.label(65), "<s>");
}

TEST(Loader, BigramBackcopyOfFewSequencesRepeatsThem) {
    DataConfig config;
    const Loader endless(config, Split::kTrain, {.T = 64, .seed = 1});
    config.train_samples = 5;
    const Loader few(config, Split::kTrain, {.T = 64, .seed = 1});
    EXPECT_EQ(few.samples_available(), -1);  // epochs without end
    for (int64_t sample = 0; sample < 12; ++sample)
        EXPECT_EQ(few.load(sample, 1).tokens, endless.load(sample % 5, 1).tokens) << sample;
    EXPECT_NE(few.content_hash(), endless.content_hash());
    config.train_samples = 6;
    EXPECT_NE(few.content_hash(), Loader(config, Split::kTrain, {.T = 64, .seed = 1}).content_hash());
    // The validation sequences are the same ones.
    EXPECT_EQ(Loader(config, Split::kValidation, {.T = 64, .seed = 1}).load(3, 1).tokens,
              Loader(DataConfig{}, Split::kValidation, {.T = 64, .seed = 1}).load(3, 1).tokens);
}

TEST(Loader, BigramBackcopyCountsAnyText) {
    DataConfig config;
    config.text = excerpt_path();
    const Loader loader(config, Split::kTrain, {.T = 16});
    EXPECT_EQ(loader.vocab_size(), make_char_tokenizer(excerpt(), false)->vocab_size() + 2);
}

TEST(Loader, PreparedFolderLoadsLikeTheText) {
    const TemporaryFolder folder;
    prepare_text({.text = excerpt_path(), .out = folder / "out", .shard_tokens = 1000});
    DataConfig config;
    config.source = "shards";
    config.shards = folder / "out/train_*.bin";
    config.val_shards = folder / "out/val_*.bin";
    for (const Split split : {Split::kTrain, Split::kValidation}) {
        const Loader shards(config, split, {.T = 48, .seed = 3});
        const Loader text(text_config(), split, {.T = 48, .seed = 3});
        EXPECT_EQ(shards.vocab_size(), text.vocab_size());
        EXPECT_EQ(shards.samples_per_epoch(), text.samples_per_epoch());
        EXPECT_EQ(shards.load(3, 9).tokens, text.load(3, 9).tokens);
        EXPECT_EQ(shards.load(3, 9).targets, text.load(3, 9).targets);
    }
}

TEST(Loader, ContentHashFollowsTheContent) {
    const CountingShards a(500), b(500), c(501);
    const auto hash = [](const DataConfig& config) { return Loader(config, Split::kTrain, {.T = 10}).content_hash(); };
    EXPECT_EQ(hash(a.config), hash(b.config));
    EXPECT_NE(hash(a.config), hash(c.config));
}

TEST(Loader, DataThatCannotBeUsedIsRefused) {
    const TemporaryFolder folder;
    const auto refuse = [&](const DataConfig& config, Split split, LoaderOptions options,
                            std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] { Loader(config, split, options).load(0, 1); });
    };
    DataConfig text = text_config();
    refuse(text, Split::kValidation, {.T = 5000}, {"validation part holds", "wanted at least T + 1 = 5001"});
    refuse(text, Split::kTrain, {.T = 50000}, {"training part holds", "50001"});
    refuse(text, Split::kTrain, {.T = 0}, {"T = 0"});
    refuse(text, Split::kTrain, {.T = 8, .placeholders = 8}, {"8 placeholders", "T = 8"});
    refuse(text, Split::kTrain, {.T = 8, .placeholders = -1}, {"-1 placeholders"});
    text.val_fraction = 0.0;
    refuse(text, Split::kValidation, {.T = 8}, {"no validation split", "data.val_fraction"});
    text.document_mask = true;
    refuse(text, Split::kTrain, {.T = 8}, {"nothing tells where documents start", "data.document_separator"});
    text = text_config();
    text.text = folder / "missing.txt";
    refuse(text, Split::kTrain, {.T = 8}, {"data.text", "missing.txt", "cannot be opened", "No such file"});
    text.text = write_bytes(folder / "empty.txt", "");
    refuse(text, Split::kTrain, {.T = 8}, {"data.text", "empty.txt", "is empty"});
    text.text = folder / ".";
    refuse(text, Split::kTrain, {.T = 8}, {"not a regular file"});
    text = text_config();
    text.vocab_size = 7;
    refuse(text, Split::kTrain, {.T = 8}, {"data.vocab_size = 7", "char tokenizer has"});

    CountingShards shards(100);
    shards.config.vocab_size = 50;
    refuse(shards.config, Split::kTrain, {.T = 90}, {"x.bin", "token 50 is id 50", "data.vocab_size = 50"});
    shards.config.vocab_size = 0;
    refuse(shards.config, Split::kTrain, {.T = 8}, {"data.vocab_size = 0", "50257"});
    shards.config.shards = shards.folder / "y_*.bin";
    shards.config.vocab_size = 50;
    refuse(shards.config, Split::kTrain, {.T = 8}, {"data.shards", "no file matches"});
}

}  // namespace
}  // namespace plimsoll
