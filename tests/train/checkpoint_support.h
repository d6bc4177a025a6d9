// What the tests of checkpoints share: logical tensors, parts of them on ranks, saving and loading as ranks.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>

#include "dist/as_ranks.h"
#include "train/checkpoint.h"
#include "train_test_support.h"

namespace plimsoll {

// Tensors of several dtypes with known content. The owner of what parts show.
class LogicalTensors {
  public:
    explicit LogicalTensors(unsigned char content) {
        add("parameters/w", DType::kF32, {11, 3}, content);
        add("parameters/b", DType::kBF16, {5}, content);
        add("m/w", DType::kF64, {7}, content);
        add("v/w", DType::kI32, {2, 3, 2, 2}, content);
    }

    // All of every tensor.
    std::vector<CheckpointPart> whole() {
        std::vector<CheckpointPart> parts;
        for (size_t t = 0; t < tensors_.size(); ++t) parts.push_back(part(t, {0, tensors_[t].shape.elements()}));
        return parts;
    }
    // Every tensor cut at random, each piece given to one of `ranks` at random, in random order.
    std::vector<std::vector<CheckpointPart>> cut(int ranks, std::mt19937& random) {
        std::vector<std::vector<CheckpointPart>> parts(static_cast<size_t>(ranks));
        for (size_t t = 0; t < tensors_.size(); ++t)
            for (int64_t begin = 0, end; begin < tensors_[t].shape.elements(); begin = end) {
                end = begin + 1 + static_cast<int64_t>(random() % 20);
                end = std::min(end, tensors_[t].shape.elements());
                parts[random() % parts.size()].push_back(part(t, {begin, end}));
            }
        for (auto& of_rank : parts) std::shuffle(of_rank.begin(), of_rank.end(), random);
        return parts;
    }
    CheckpointPart part(size_t t, ElementRange range) {
        Entry& entry = tensors_[t];
        char* data = entry.bytes.data() + range.begin * size_of(entry.dtype);
        return {.name = entry.name,
                .shape = entry.shape,
                .range = range,
                .data = Tensor(data, entry.dtype, {range.size()})};
    }
    // Every byte of every tensor.
    std::string bytes() const {
        std::string all;
        for (const Entry& entry : tensors_) all += entry.bytes;
        return all;
    }

  private:
    struct Entry {
        std::string name;
        DType dtype;
        Shape shape;
        std::string bytes;
    };
    void add(const std::string& name, DType dtype, Shape shape, unsigned char content) {
        std::string bytes(static_cast<size_t>(shape.elements() * size_of(dtype)), '\0');
        for (size_t i = 0; i < bytes.size(); ++i)
            bytes[i] = content ? static_cast<char>(content * 31 + i * 7 + tensors_.size()) : '\0';
        tensors_.push_back({name, dtype, shape, std::move(bytes)});
    }
    std::vector<Entry> tensors_;
};

inline TrainingState state_at(int64_t step) {
    return {.step = step,
            .samples = 10 * step,
            .tokens = 100 * step,
            .seconds = 1.5,
            .best_loss = 0.1 + 0.2,
            .best_step = -1,
            .config = "[run]\n",
            .data_hash = "abc",
            .tokenizer_hash = "def",
            .extra = R"({"window":[1.5,2]})"};
}

// A run directory without a trainer.
class CheckpointTest : public testing::Test {
  protected:
    static constexpr int64_t kSmallChunk = 16;

    TemporaryFolder folder_;
    std::string run_ = folder_ / "run";
    CheckpointOptions options_{.keep = {.newest = 100}, .chunk_bytes = kSmallChunk};

    std::string file(int64_t step, const std::string& name) {
        return fmt::format("{}/checkpoints/step_{:08}/{}", run_, step, name);
    }
    std::vector<std::string> names() const {
        std::vector<std::string> found;
        for (const auto& entry : std::filesystem::directory_iterator(run_ + "/checkpoints"))
            found.push_back(entry.path().filename());
        std::sort(found.begin(), found.end());
        return found;
    }
    std::vector<int64_t> steps() const { return CheckpointStore(run_).steps(); }

    // One rank saves steps whose tensors hold their number; the last outcome.
    SaveOutcome save(std::initializer_list<int64_t> steps, int64_t best_step = -1) {
        Communicator alone(single_transport());
        Checkpointer checkpointer(run_, options_, alone);
        checkpointer.take_over();
        SaveOutcome outcome;
        for (const int64_t step : steps) {
            LogicalTensors tensors(static_cast<unsigned char>(step));
            TrainingState state = state_at(step);
            state.best_step = best_step;
            checkpointer.start(state, tensors.whole());
            outcome = *checkpointer.finish();
            EXPECT_TRUE(outcome.saved) << outcome.text;
        }
        return outcome;
    }
    // Random parts saved by `ranks`.
    void save_cut(int ranks, int64_t step, std::mt19937& random) {
        LogicalTensors tensors(static_cast<unsigned char>(step));
        const auto parts = tensors.cut(ranks, random);
        as_ranks(ranks, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            checkpointer.take_over();
            checkpointer.start(state_at(step), parts[static_cast<size_t>(world.rank())]);
            const SaveOutcome outcome = *checkpointer.finish();
            EXPECT_TRUE(outcome.saved) << outcome.text;
            EXPECT_EQ(checkpointer.newest_step(), step);
        });
    }
    struct Loaded {
        int64_t step = -1;  // that every rank got
        std::string bytes;
        std::string passed_over;
    };
    // Random parts loaded by `ranks`.
    Loaded load_cut(int ranks, std::mt19937& random) {
        LogicalTensors tensors(0);
        const auto parts = tensors.cut(ranks, random);
        std::vector<int64_t> steps(static_cast<size_t>(ranks), -1);
        Loaded loaded;
        as_ranks(ranks, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            const auto state = checkpointer.load_newest(parts[static_cast<size_t>(world.rank())],
                                                        [&](const std::string& why) { loaded.passed_over += why; });
            steps[static_cast<size_t>(world.rank())] = state ? state->step : -1;
        });
        loaded.step = steps[0], loaded.bytes = tensors.bytes();
        EXPECT_EQ(steps, std::vector<int64_t>(steps.size(), steps[0]));
        return loaded;
    }
    // Reads and verifies everything; throws as load_parts does.
    void verify(int64_t step) {
        const std::string folder = CheckpointStore(run_).folder(step);
        load_parts(folder, read_manifest(folder), {}, 0, 1);
    }
    void expect_refused(int64_t step, const std::string& what) {
        try {
            verify(step);
            ADD_FAILURE() << what << ": not noticed";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kBadInput) << error.what();
        }
    }
};

}  // namespace plimsoll
