#include "train/checkpoint.h"

#include <gtest/gtest.h>

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
        const std::string path = file(1, name);
        std::ifstream in(path, std::ios::binary);
        const std::string whole((std::istreambuf_iterator<char>(in)), {});
        for (size_t at = 0; at < whole.size(); ++at) {
            std::string damaged = whole;
            damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
            std::ofstream(path, std::ios::binary) << damaged;
            expect_refused(1, fmt::format("{} byte {} bit {}", name, at, at % 8));
        }
        for (size_t size = 0; size < whole.size(); size += 1 + size / 16) {
            std::ofstream(path, std::ios::binary) << whole.substr(0, size);
            expect_refused(1, fmt::format("{} cut to {}", name, size));
        }
        fs::remove(path);
        expect_refused(1, std::string(name) + " missing");
        std::ofstream(path, std::ios::binary) << whole;
    }
    checkpointer_.load(1, tensors());
}

TEST_F(CheckpointTest, RefusesTensorsOfAnotherModel) {
    save(1);
    std::vector<CheckpointTensor> other = tensors();
    other[0].data = Tensor(weights_.data(), DType::kF32, {3, 11});
    expect_error(ExitCode::kBadInput, {"parameters/w", "(3, 11)"}, [&] { checkpointer_.load(1, other); });
    other[0] = {"parameters/v", tensors()[0].data};
    expect_error(ExitCode::kBadInput, {"no tensor 'parameters/v'"}, [&] { checkpointer_.load(1, other); });
}

TEST_F(CheckpointTest, KeepsTheNewestAndTheBest) {
    for (int64_t step = 1; step <= 6; ++step) save(step, 2, 2);
    EXPECT_EQ(checkpointer_.steps(), (std::vector<int64_t>{2, 5, 6}));
}

TEST_F(CheckpointTest, RemovesWhatAnInterruptedSaveLeft) {
    save(1);
    fs::create_directories((folder_ / "run/checkpoints/step_00000002.tmp"));
    EXPECT_EQ(checkpointer_.steps(), std::vector<int64_t>{1});
    EXPECT_FALSE(fs::exists((folder_ / "run/checkpoints/step_00000002.tmp")));
}

TEST_F(CheckpointTest, AFailedSaveLeavesEarlierOnesAlone) {
    save(1);
    // A folder where the data file should be: opening it for writing fails, for root too.
    write_text(folder_ / "blocked", "a file, not a folder");
    const Checkpointer blocked((folder_ / "blocked"));
    expect_error(ExitCode::kIo, {"saving step 9"}, [&] { blocked.save({.step = 9}, tensors(), 1); });
    checkpointer_.load(1, tensors());
}

}  // namespace
}  // namespace plimsoll
