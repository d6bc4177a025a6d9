// What is on disk: written, read by other ranks, damaged, pruned.
#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include "checkpoint_support.h"
#include "train/crc32c.h"
#include "train/inspect_checkpoint.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

void put(const std::string& path, size_t at, char byte) {
    std::fstream(path, std::ios::binary | std::ios::in | std::ios::out).seekp(static_cast<int64_t>(at)).put(byte);
}

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
    save({3});
    EXPECT_EQ(steps(), std::vector<int64_t>{3});
    Communicator alone(single_transport());
    Checkpointer checkpointer(run_, options_, alone);
    LogicalTensors tensors(0);
    const auto state = checkpointer.load_newest(tensors.whole(), [](const std::string& why) { ADD_FAILURE() << why; });
    ASSERT_TRUE(state);
    EXPECT_EQ(tensors.bytes(), LogicalTensors(3).bytes());
    const TrainingState wanted = state_at(3);
    EXPECT_EQ(state->step, 3);
    EXPECT_EQ(state->samples, wanted.samples);
    EXPECT_EQ(state->tokens, wanted.tokens);
    EXPECT_EQ(state->seconds, wanted.seconds);
    EXPECT_EQ(state->best_loss, 0.1 + 0.2);  // every bit
    EXPECT_EQ(state->best_step, wanted.best_step);
    EXPECT_EQ(state->config, wanted.config);
    EXPECT_EQ(state->data_hash, wanted.data_hash);
    EXPECT_EQ(state->tokenizer_hash, wanted.tokenizer_hash);
    EXPECT_EQ(state->extra, wanted.extra);
}

TEST_F(CheckpointTest, ARunWithoutCheckpointsLoadsNothing) {
    std::mt19937 random(1);
    for (const int ranks : {1, 3}) EXPECT_EQ(load_cut(ranks, random).step, -1);
}

TEST_F(CheckpointTest, AnyLayoutIsLoadedByAnyOther) {
    std::mt19937 random(7);
    for (int64_t step = 1; step <= 24; ++step) {
        options_.asynchronous = random() % 2;
        options_.chunk_bytes = 1 + static_cast<int64_t>(random() % 64);
        const int savers = 1 + static_cast<int>(random() % 5), loaders = 1 + static_cast<int>(random() % 5);
        save_cut(savers, step, random);
        const Loaded loaded = load_cut(loaders, random);
        ASSERT_EQ(loaded.step, step);
        ASSERT_EQ(loaded.bytes, LogicalTensors(static_cast<unsigned char>(step)).bytes())
            << savers << " ranks saved, " << loaders << " loaded, chunks of " << options_.chunk_bytes;
    }
}

TEST_F(CheckpointTest, HashesDoNotDependOnTheLayout) {
    std::mt19937 random(3);
    uint64_t first = 0;
    for (const int ranks : {1, 2, 5}) {
        options_.chunk_bytes = 5 * ranks;
        save_cut(ranks, 4, random);
        const Manifest manifest = read_manifest(CheckpointStore(run_).folder(4));
        if (ranks == 1) first = tensors_hash(manifest);
        EXPECT_EQ(tensors_hash(manifest), first) << ranks;
        LogicalTensors tensors(4);
        for (const CheckpointPart& part : tensors.whole())
            EXPECT_EQ(tensor_hash(manifest.tensors[static_cast<size_t>(manifest.find(part.name))], 5 * ranks),
                      crc32c(part.data.data, static_cast<size_t>(part.data.bytes())));
    }
    save_cut(2, 5, random);
    EXPECT_NE(tensors_hash(read_manifest(CheckpointStore(run_).folder(5))), first);
}

TEST_F(CheckpointTest, NoticesFlippedBitsAndOtherLengthsOfAnyFile) {
    std::mt19937 random(5);
    save_cut(2, 1, random);
    const std::vector<std::string> files{"MANIFEST", "rank_0.bin", "rank_1.bin"};
    for (int round = 0; round < 1000; ++round) {
        const std::string& name = files[random() % 3];
        const std::string path = file(1, name), whole = read_file(path, "checkpoint");
        const size_t bit = random() % (8 * whole.size());
        put(path, bit / 8, static_cast<char>(whole[bit / 8] ^ (1 << (bit % 8))));
        expect_refused(1, fmt::format("{} byte {} bit {}", name, bit / 8, bit % 8));
        put(path, bit / 8, whole[bit / 8]);
    }
    for (const std::string& name : files) {
        const std::string path = file(1, name), whole = read_file(path, "checkpoint");
        for (size_t size = 0; size < whole.size(); size += name == "MANIFEST" ? 37 : 1) {
            write_bytes(path, whole.substr(0, size));
            expect_refused(1, fmt::format("{} cut to {}", name, size));
        }
        write_bytes(path, whole + "\n");
        expect_refused(1, fmt::format("{} with a byte more", name));
        fs::remove(path);
        expect_refused(1, fmt::format("{} missing", name));
        write_bytes(path, whole);
    }
    verify(1);
}

// No rank wants the damaged bytes, or one does: all fall back.
TEST_F(CheckpointTest, EveryByteIsVerifiedBySomeRank) {
    std::mt19937 random(9);
    save_cut(2, 1, random);
    save_cut(3, 2, random);
    for (int round = 0; round < 60; ++round) {
        const std::string path = file(2, fmt::format("rank_{}.bin", round % 3)), whole = read_file(path, "checkpoint");
        std::string damaged = whole;
        damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
        write_bytes(path, damaged);
        const bool wanted = round % 2 == 0;
        const int ranks = 1 + static_cast<int>(random() % 4);
        if (wanted) {
            const Loaded loaded = load_cut(ranks, random);
            ASSERT_EQ(loaded.step, 1);
            ASSERT_EQ(loaded.bytes, LogicalTensors(1).bytes());
            ASSERT_NE(loaded.passed_over.find("is damaged"), std::string::npos) << loaded.passed_over;
        } else {
            as_ranks(ranks, [&](Communicator& world) {
                Checkpointer checkpointer(run_, options_, world);
                EXPECT_EQ(checkpointer.load_newest({}, [](const std::string&) {})->step, 1);
            });
        }
        write_bytes(path, whole);
    }
}

TEST_F(CheckpointTest, FallsBackToAnOlderOneAndSaysWhy) {
    const std::vector<std::pair<std::function<void()>, std::string>> damages{
        {[&] { fs::remove(file(2, "MANIFEST")); }, "step_00000002/MANIFEST"},
        {[&] { fs::resize_file(file(2, "MANIFEST"), 63); }, "cut off"},
        {[&] { fs::remove(file(2, "rank_0.bin")); }, "rank_0.bin: No such file or directory; the manifest says 294"},
        {[&] { fs::resize_file(file(2, "rank_0.bin"), 1); }, "rank_0.bin: 1 bytes, the manifest says 294"},
        {[&] { fs::remove_all(fs::path(file(2, "x")).parent_path()), fs::create_directory(file(2, "")); },
         "step_00000002/MANIFEST"}};
    std::mt19937 random(2);
    for (const int ranks : {1, 2})
        for (const auto& [damage, said] : damages) {
            fs::remove_all(run_);
            save({1, 2});
            damage();
            const Loaded loaded = load_cut(ranks, random);
            EXPECT_EQ(loaded.step, 1) << said;
            EXPECT_EQ(loaded.bytes, LogicalTensors(1).bytes()) << said;
            EXPECT_NE(loaded.passed_over.find(said), std::string::npos) << said << " in: " << loaded.passed_over;
        }
}

TEST_F(CheckpointTest, NoneWholeIsAnErrorOfAllRanksAndDeletesNothing) {
    save({1, 2});
    fs::resize_file(file(1, "rank_0.bin"), 3);
    fs::remove(file(2, "MANIFEST"));
    const auto before = names();
    for (const int ranks : {1, 3})
        as_ranks(ranks, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            checkpointer.take_over();
            expect_error(ExitCode::kBadInput, {"holds 2 checkpoints", "none of them whole", "--fresh"},
                         [&] { checkpointer.load_newest({}, [](const std::string&) {}); });
        });
    EXPECT_EQ(names(), before);
    EXPECT_TRUE(fs::exists(file(1, "rank_0.bin")) && fs::exists(file(2, "rank_0.bin")));
}

TEST_F(CheckpointTest, SaysWhatIsDamagedAndWhere) {
    save({1});
    const std::string data = file(1, "rank_0.bin");
    put(data, 150, '\0');
    // parameters/w is bytes 0 to 132, parameters/b to 142, m/w to 198.
    expect_error(ExitCode::kBadInput, {"rank_0.bin", "'m/w' is damaged", "bytes 142 to 158"}, [&] { verify(1); });
    std::string shown;
    expect_error(ExitCode::kBadInput, {"bytes 142 to 158"}, [&] {
        inspect_checkpoint(fs::path(data).parent_path(), Shown::kAll, [&](const std::string& text) { shown += text; });
    });
    EXPECT_EQ(shown.find("whole"), std::string::npos);
    expect_error(ExitCode::kBadInput, {"1 of 1 checkpoints damaged", "bytes 142 to 158"},
                 [&] { inspect_checkpoint(run_, Shown::kAll, [](const std::string&) {}); });
    expect_error(ExitCode::kBadInput, {"nowhere", "no folder"},
                 [&] { inspect_checkpoint(run_ + "/nowhere", Shown::kAll, [](const std::string&) {}); });
}

TEST_F(CheckpointTest, InspectShowsStateLayoutAndHashes) {
    std::mt19937 random(4);
    save_cut(3, 12, random);
    std::string shown, hashes, run;
    const std::string checkpoint = CheckpointStore(run_).folder(12);
    inspect_checkpoint(checkpoint, Shown::kAll, [&](const std::string& text) { shown += text; });
    for (const char* part : {"step 12", "1200 tokens", "3 ranks", "rank_2.bin", "parameters/b bf16 (5)", "[0, ", "abc",
                             "{\"window\":[1.5,2]}", "whole"})
        EXPECT_NE(shown.find(part), std::string::npos) << part << " in\n" << shown;
    inspect_checkpoint(checkpoint, Shown::kHashes, [&](const std::string& text) { hashes += text; });
    EXPECT_EQ(hashes.find("rank_"), std::string::npos);
    inspect_checkpoint(run_, Shown::kAll, [&](const std::string& text) { run += text; });
    EXPECT_NE(run.find("step_00000012: whole, 3 ranks"), std::string::npos) << run;
}

// A tensor above 64 MiB has a checksum per chunk: damage past the first one is found too.
TEST_F(CheckpointTest, LargeTensorsAreCheckedToTheirEnd) {
    std::vector<float> large((64u << 18) + 3, 0.5f);  // 64 MiB and three values
    const auto size = static_cast<int64_t>(large.size());
    const std::vector<CheckpointPart> one{{.name = "parameters/large",
                                           .shape = {size},
                                           .range = {0, size},
                                           .data = Tensor(large.data(), DType::kF32, {size})}};
    fs::create_directories(run_);
    Manifest manifest{.state = state_at(1)};
    add_share(manifest, share_text(write_parts(run_, 0, one, kChunkBytes)));
    write_bytes(run_ + "/MANIFEST", manifest_text(manifest));
    large.back() = 0;
    load_parts(run_, read_manifest(run_), one, 0, 1);
    EXPECT_EQ(large.back(), 0.5f);
    put(run_ + "/rank_0.bin", 64 << 20, 'x');
    expect_error(ExitCode::kBadInput, {"bytes 67108864 to 67108876"},
                 [&] { load_parts(run_, read_manifest(run_), one, 0, 1); });
}

TEST_F(CheckpointTest, RefusesTensorsOfAnotherModel) {
    save({1});
    const std::string folder = CheckpointStore(run_).folder(1);
    const auto refused = [&](std::initializer_list<std::string_view> said, const CheckpointPart& part) {
        expect_error(ExitCode::kBadInput, said, [&] { load_parts(folder, read_manifest(folder), {&part, 1}, 0, 1); });
    };
    LogicalTensors tensors(0);
    CheckpointPart other = tensors.whole()[0];
    other.shape = {3, 11};
    refused({"parameters/w", "(3, 11)", "(11, 3)"}, other);
    other = tensors.whole()[0];
    other.data.dtype = DType::kI32;
    refused({"parameters/w", "fp32", "int32"}, other);
    other = tensors.whole()[0];
    other.name = "parameters/v";
    refused({"no tensor 'parameters/v'"}, other);
}

TEST_F(CheckpointTest, KeepsTheNewestTheBestAndTheMajorOnes) {
    options_.keep = {.newest = 2};
    save({1, 2, 3, 4, 5, 6}, 2);
    EXPECT_EQ(steps(), (std::vector<int64_t>{2, 5, 6}));
    EXPECT_EQ(names().size(), 3u);  // nothing half removed
    fs::remove_all(run_);
    options_.keep = {.newest = 1, .every = 4};
    save({2, 4, 6, 8, 10, 12, 14});
    EXPECT_EQ(steps(), (std::vector<int64_t>{4, 8, 12, 14}));
}

TEST_F(CheckpointTest, DamagedOnesDoNotCountAsKept) {
    options_.keep = {.newest = 2};
    save({1, 2, 3});
    fs::resize_file(file(3, "rank_0.bin"), 5);
    save({4});
    EXPECT_EQ(steps(), (std::vector<int64_t>{2, 3, 4}));
    save({5});
    EXPECT_EQ(steps(), (std::vector<int64_t>{4, 5}));
}

TEST_F(CheckpointTest, ADamagedNewerCheckpointDoesNotPushOutWholeOnes) {
    save({4, 8});
    write_bytes(file(8, "rank_0.bin"), "damaged");
    options_.keep = {.newest = 1};
    save({6});  // went on from 4
    verify(6);
    EXPECT_EQ(steps(), (std::vector<int64_t>{6, 8}));
    save({8});
    verify(8);
    EXPECT_EQ(names(), std::vector<std::string>{"step_00000008"});
}

// What is left when a process dies between any two operations of a save or a removal.
TEST_F(CheckpointTest, HalfSavedAndHalfRemovedFoldersAreNeverLoadedAndGoAway) {
    save({1});
    const std::string root = run_ + "/checkpoints/";
    fs::copy(root + "step_00000001", root + "step_00000002.tmp-0123456789abcdef");
    fs::copy(root + "step_00000001", root + "step_00000003.removed");
    fs::create_directories(root + "step_00000004.tmp");
    write_text(root + "step_00000005.removed/rank_0.bin", "half");
    std::mt19937 random(1);
    EXPECT_EQ(load_cut(2, random).step, 1);
    EXPECT_EQ(names().size(), 5u);  // loading changes nothing
    save({6});
    EXPECT_EQ(names(), (std::vector<std::string>{"step_00000001", "step_00000006"}));
}

TEST_F(CheckpointTest, FilesThatAreNoCheckpointsAreLeftAlone) {
    save({1});
    for (const char* name : {"step_", "step_x", "step_12x", "notes", "step_123456789012345678901234567890"})
        fs::create_directories(run_ + "/checkpoints/" + name);
    EXPECT_EQ(steps(), std::vector<int64_t>{1});
    options_.keep = {.newest = 1};
    save({2});
    EXPECT_EQ(steps(), std::vector<int64_t>{2});
    EXPECT_TRUE(fs::exists(run_ + "/checkpoints/notes"));
}

}  // namespace
}  // namespace plimsoll
