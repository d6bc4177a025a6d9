#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <functional>

#include "train_test_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

TEST(Crc32c, MatchesRfc3720) {
    const std::vector<unsigned char> zeros(32, 0), ones(32, 0xff);
    EXPECT_EQ(crc32c(zeros.data(), 32), 0x8a9136aau);
    EXPECT_EQ(crc32c(ones.data(), 32), 0x62a8ab43u);
    EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
    EXPECT_EQ(crc32c("6789", 4, crc32c("12345", 5)), 0xe3069283u);  // continued
    std::vector<unsigned char> counting(32), falling(32);
    for (unsigned char i = 0; i < 32; ++i) counting[i] = i, falling[i] = static_cast<unsigned char>(31 - i);
    EXPECT_EQ(crc32c(counting.data(), 32), 0x46dd794eu);
    EXPECT_EQ(crc32c(falling.data(), 32), 0x113fdb5cu);
    EXPECT_EQ(crc32c(nullptr, 0), 0u);
}

// Eight bytes at a time or one by one, from any address: the same sum.
TEST(Crc32c, DoesNotDependOnHowTheBytesAreCut) {
    std::string bytes(100, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i + 7);
    for (size_t begin = 0; begin < 9; ++begin) {
        const uint32_t whole = crc32c(bytes.data() + begin, bytes.size() - begin);
        for (size_t cut = begin; cut <= bytes.size(); ++cut)
            ASSERT_EQ(crc32c(bytes.data() + cut, bytes.size() - cut, crc32c(bytes.data() + begin, cut - begin)), whole)
                << "from " << begin << ", cut at " << cut;
    }
}

class CheckpointTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    Checkpointer checkpointer_{(folder_ / "run")};
    std::vector<float> weights_ = std::vector<float>(33, 1.5f);
    std::vector<double> moments_ = std::vector<double>(7, -2.25);

    std::vector<CheckpointTensor> tensors() {
        return {{"parameters/w", Tensor(weights_.data(), DType::kF32, {11, 3})},
                {"m/w", Tensor(moments_.data(), DType::kF64, {7})}};
    }
    void save(int64_t step, int64_t keep = 100, int64_t best = -1) {
        TrainingState state{.step = step,
                            .samples = 10 * step,
                            .tokens = 100 * step,
                            .seconds = 1.5,
                            .best_loss = 0.1 + 0.2,
                            .best_step = best,
                            .config = "[run]\n",
                            .data_hash = "abc"};
        weights_[0] = static_cast<float>(step);
        checkpointer_.save(state, tensors(), keep);
    }
    std::string file(int64_t step, const std::string& name) {
        return (folder_ / fmt::format("run/checkpoints/step_{:08}/{}", step, name));
    }
    void expect_refused(int64_t step, const std::string& what) {
        try {
            checkpointer_.read_state(step);
            checkpointer_.load(step, tensors());
            ADD_FAILURE() << what << ": not noticed";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kBadInput) << error.what();
        }
    }
};

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
    save(3);
    const std::vector<float> saved = weights_;
    std::fill(weights_.begin(), weights_.end(), 0.0f);
    std::fill(moments_.begin(), moments_.end(), 0.0);
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{3});
    const TrainingState state = checkpointer_.read_state(3);
    checkpointer_.load(3, tensors());
    EXPECT_EQ(weights_, saved);
    EXPECT_EQ(moments_, std::vector<double>(7, -2.25));
    EXPECT_EQ(state.samples, 30);
    EXPECT_EQ(state.best_loss, 0.1 + 0.2);  // every bit
    EXPECT_EQ(state.config, "[run]\n");
}

TEST_F(CheckpointTest, NoticesEveryFlippedBitAndEveryLength) {
    save(1);
    for (const char* name : {"MANIFEST", "rank_0.bin"}) {
        const std::string path = file(1, name), whole = read_file(path, "checkpoint");
        for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
            std::string damaged = whole;
            damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
            write_bytes(path, damaged);
            expect_refused(1, fmt::format("{} byte {} bit {}", name, bit / 8, bit % 8));
        }
        for (size_t size = 0; size < whole.size(); ++size) {
            write_bytes(path, whole.substr(0, size));
            expect_refused(1, fmt::format("{} cut to {}", name, size));
        }
        write_bytes(path, whole + "\n");
        expect_refused(1, fmt::format("{} with a byte more", name));
        fs::remove(path);
        expect_refused(1, fmt::format("{} missing", name));
        write_bytes(path, whole);
    }
    checkpointer_.load(1, tensors());
}

TEST_F(CheckpointTest, SaysWhatIsDamagedAndWhere) {
    save(1);
    const std::string data = file(1, "rank_0.bin"), whole = read_file(data, "checkpoint");
    write_bytes(data, whole.substr(0, 100));
    expect_error(ExitCode::kBadInput, {"rank_0.bin", "100 bytes", "188"}, [&] { checkpointer_.read_state(1); });
    std::string flipped = whole;
    flipped[140] = static_cast<char>(flipped[140] ^ 4);  // in the second tensor, which begins at 132
    write_bytes(data, flipped);
    expect_error(ExitCode::kBadInput, {"rank_0.bin", "'m/w' is damaged", "bytes 132"},
                 [&] { checkpointer_.load(1, tensors()); });
    write_bytes(file(1, "MANIFEST"), read_file(file(1, "MANIFEST"), "manifest").substr(0, 50));
    expect_error(ExitCode::kBadInput, {"MANIFEST", "cut off"}, [&] { checkpointer_.read_state(1); });
    fs::remove_all(fs::path(data).parent_path());
    expect_error(ExitCode::kBadInput, {"step_00000001/MANIFEST"}, [&] { checkpointer_.read_state(1); });
}

// A tensor above 64 MiB has a checksum per chunk: damage past the first one is found too.
TEST_F(CheckpointTest, LargeTensorsAreCheckedToTheirEnd) {
    std::vector<float> large((64u << 18) + 3, 0.5f);  // 64 MiB and three values
    const std::vector<CheckpointTensor> one{
        {"parameters/large", Tensor(large.data(), DType::kF32, {static_cast<int64_t>(large.size())})}};
    checkpointer_.save({.step = 1}, one, 1);
    large.back() = 0;
    checkpointer_.load(1, one);
    EXPECT_EQ(large.back(), 0.5f);
    std::fstream(file(1, "rank_0.bin"), std::ios::binary | std::ios::in | std::ios::out).seekp(64 << 20).put('x');
    expect_error(ExitCode::kBadInput, {"bytes 67108864 on"}, [&] { checkpointer_.load(1, one); });
}

// A manifest whose checksum is right may still say anything: it was written by hand, or by another program.
TEST_F(CheckpointTest, ManifestsThatLieAreRefused) {
    save(1);
    const std::string path = file(1, "MANIFEST"), whole = read_file(path, "manifest");
    const nlohmann::json good = nlohmann::json::parse(whole.substr(0, whole.rfind("crc32c ")));
    const auto refuse = [&](const std::string& what, const std::function<void(nlohmann::json&)>& change) {
        nlohmann::json manifest = good;
        change(manifest);
        const std::string text = manifest.dump(1) + "\n";
        write_bytes(path, text + fmt::format("crc32c {:08x}\n", crc32c(text.data(), text.size())));
        expect_refused(1, what);
    };
    for (const auto& entry : good.items()) {
        if (entry.key() == "world_size") continue;  // told to people, not read
        refuse("no " + entry.key(), [&](nlohmann::json& m) { m.erase(entry.key()); });
        refuse(entry.key() + " of another type", [&](nlohmann::json& m) { m[entry.key()] = nlohmann::json::object(); });
    }
    for (const char* key : {"name", "dtype", "shape", "offset", "crc32c"}) {
        refuse(fmt::format("tensor without {}", key), [&](nlohmann::json& m) { m["tensors"][0].erase(key); });
        refuse(fmt::format("tensor with a strange {}", key), [&](nlohmann::json& m) { m["tensors"][0][key] = true; });
    }
    refuse("a tensor past the end", [](nlohmann::json& m) { m["tensors"][0]["offset"] = 180; });
    refuse("a tensor before the start", [](nlohmann::json& m) { m["tensors"][0]["offset"] = -4; });
    refuse("an offset that overflows", [](nlohmann::json& m) { m["tensors"][0]["offset"] = INT64_MAX - 8; });
    refuse("no checksums", [](nlohmann::json& m) { m["tensors"][0]["crc32c"] = nlohmann::json::array(); });
    refuse("another format", [](nlohmann::json& m) { m["format"] = 2; });
    write_bytes(path, whole);
    checkpointer_.load(1, tensors());
}

TEST_F(CheckpointTest, RefusesTensorsOfAnotherModel) {
    save(1);
    std::vector<CheckpointTensor> other = tensors();
    other[0].data = Tensor(weights_.data(), DType::kF32, {3, 11});
    expect_error(ExitCode::kBadInput, {"parameters/w", "(3, 11)"}, [&] { checkpointer_.load(1, other); });
    other[0].data = Tensor(moments_.data(), DType::kF64, {11, 3});
    expect_error(ExitCode::kBadInput, {"parameters/w", "fp32", "fp64"}, [&] { checkpointer_.load(1, other); });
    other[0] = {"parameters/v", tensors()[0].data};
    expect_error(ExitCode::kBadInput, {"no tensor 'parameters/v'"}, [&] { checkpointer_.load(1, other); });
}

TEST_F(CheckpointTest, KeepsTheNewestAndTheBest) {
    for (int64_t step = 1; step <= 6; ++step) save(step, 2, 2);
    EXPECT_EQ(checkpointer_.steps(), (std::vector<int64_t>{2, 5, 6}));
}

TEST_F(CheckpointTest, RemovesWhatAnInterruptedSaveLeft) {
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{});  // before the first save there is no folder
    save(1);
    fs::create_directories((folder_ / "run/checkpoints/step_00000002.tmp"));
    write_text(folder_ / "run/checkpoints/step_00000003.tmp/rank_0.bin", "half");
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{1});
    EXPECT_FALSE(fs::exists((folder_ / "run/checkpoints/step_00000002.tmp")));
    EXPECT_FALSE(fs::exists((folder_ / "run/checkpoints/step_00000003.tmp")));
    write_text(folder_ / "run/checkpoints/step_00000004.tmp/rank_0.bin", "half");
    save(4);
    EXPECT_EQ(checkpointer_.steps(), (std::vector<int64_t>{1, 4}));
    checkpointer_.load(4, tensors());
}

TEST_F(CheckpointTest, FilesThatAreNoCheckpointsAreLeftAlone) {
    save(1);
    for (const char* name : {"step_", "step_x", "step_12x", "notes", "step_123456789012345678901234567890"})
        fs::create_directories(folder_ / (std::string("run/checkpoints/") + name));
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{1});
    save(2, 1);
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{2});
    EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/notes"));
}

// After a fall back to an older checkpoint the run comes to the damaged one's step again.
TEST_F(CheckpointTest, SavingAgainReplacesADamagedCheckpoint) {
    for (const char* name : {"MANIFEST", "rank_0.bin"}) {
        save(1);
        const std::string path = file(1, name), whole = read_file(path, "checkpoint");
        write_bytes(path, whole.substr(0, whole.size() - 1) + "?");
        expect_refused(1, name);
        save(1);
        EXPECT_EQ(read_file(path, "checkpoint"), whole);
        checkpointer_.load(1, tensors());
    }
}

TEST_F(CheckpointTest, ADamagedNewerCheckpointDoesNotPushOutWholeOnes) {
    save(4);
    save(8);
    write_bytes(file(8, "rank_0.bin"), "damaged");
    save(6, 1);  // went on from 4
    checkpointer_.load(6, tensors());
    save(10, 1);
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{10});
}

TEST_F(CheckpointTest, AFailedSaveLeavesEarlierOnesAlone) {
    save(1);
    // A file where a folder should be: root, who may write anywhere, cannot make a folder below it either.
    write_text(folder_ / "blocked", "a file, not a folder");
    const Checkpointer blocked((folder_ / "blocked"));
    expect_error(ExitCode::kIo, {"saving step 9"}, [&] { blocked.save({.step = 9}, tensors(), 1); });
    checkpointer_.load(1, tensors());
}

// As on a full disk: the kernel refuses to let any file grow past a limit.
TEST_F(CheckpointTest, ADiskThatIsFullLeavesEarlierOnesAndNoHalfOne) {
    save(1);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const auto limited = [&](rlim_t bytes, int64_t step) {
        const rlimit limit{.rlim_cur = bytes, .rlim_max = before.rlim_max};
        const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // else the signal ends the process
        setrlimit(RLIMIT_FSIZE, &limit);
        expect_error(ExitCode::kIo, {"writing", fmt::format("step_{:08}.tmp", step)}, [&] { save(step, 1); });
        setrlimit(RLIMIT_FSIZE, &before);
        std::signal(SIGXFSZ, handler);
    };
    limited(100, 2);  // inside rank_0.bin
    limited(200, 3);  // inside MANIFEST
    for (const auto& entry : fs::directory_iterator(folder_ / "run/checkpoints"))
        EXPECT_EQ(entry.path().filename(), "step_00000001");
    checkpointer_.load(1, tensors());
    save(2, 1);
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{2});
}

}  // namespace
}  // namespace plimsoll
