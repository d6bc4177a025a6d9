// Saving as ranks together: failures of one rank, saves beside training, owners that change, slow file systems.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "checkpoint_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

class CheckpointerTest : public CheckpointTest {
  protected:
    std::string generation() const {
        return nlohmann::json::parse(read_file(run_ + "/run.lock", "lock")).at("generation");
    }
    std::string unfinished(int64_t step) const { return CheckpointStore(run_).unfinished(step, generation()); }
    static std::vector<CheckpointPart> parts_of(LogicalTensors& tensors, Communicator& world) {
        std::vector<CheckpointPart> parts = tensors.whole();
        for (CheckpointPart& part : parts) {
            const ElementRange own = split_range(part.range, world.size(), 1)[static_cast<size_t>(world.rank())];
            part.data = part.data.slice_rows(own.begin, own.size());
            part.range = own;
        }
        return parts;
    }
};

// A folder where rank 1's file should be: no rank saves, all go on, the next save is whole.
TEST_F(CheckpointerTest, AFailureOfOneRankIsAFailureOfAll) {
    for (const bool asynchronous : {false, true}) {
        options_.asynchronous = asynchronous;
        save({1});
        as_ranks(3, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            checkpointer.take_over();
            if (world.rank() == 0) fs::create_directories(unfinished(2) + "/rank_1.bin");
            world.barrier();
            LogicalTensors tensors(2);
            checkpointer.start(state_at(2), parts_of(tensors, world));
            const SaveOutcome outcome = *checkpointer.finish();
            EXPECT_FALSE(outcome.saved);
            EXPECT_EQ(outcome.step, 2);
            EXPECT_NE(outcome.text.find("rank 1: cannot open"), std::string::npos) << outcome.text;
            EXPECT_EQ(checkpointer.failures(), 1);
            EXPECT_EQ(checkpointer.newest_step(), -1);
            world.barrier();
            if (world.rank() == 0) {
                EXPECT_EQ(names(), std::vector<std::string>{"step_00000001"});
            }
            world.barrier();
            checkpointer.start(state_at(2), parts_of(tensors, world));
            EXPECT_TRUE(checkpointer.finish()->saved);
            EXPECT_EQ(checkpointer.failures(), 1);
        });
        verify(1), verify(2);
        fs::remove_all(run_);
    }
}

// As on a full disk: the kernel refuses to let any file grow past a limit.
TEST_F(CheckpointerTest, ADiskThatIsFullLeavesEarlierOnesAndNoHalfOne) {
    save({1});
    Communicator alone(single_transport());
    Checkpointer checkpointer(run_, options_, alone);
    checkpointer.take_over();
    LogicalTensors tensors(2);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const auto limited = [&](rlim_t bytes, const std::string& name) {
        const rlimit limit{.rlim_cur = bytes, .rlim_max = before.rlim_max};
        const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // else the signal ends the process
        setrlimit(RLIMIT_FSIZE, &limit);
        checkpointer.start(state_at(2), tensors.whole());
        const SaveOutcome outcome = *checkpointer.finish();
        setrlimit(RLIMIT_FSIZE, &before);
        std::signal(SIGXFSZ, handler);
        EXPECT_FALSE(outcome.saved);
        EXPECT_NE(outcome.text.find(name + "' at byte"), std::string::npos) << outcome.text;
        EXPECT_EQ(names(), std::vector<std::string>{"step_00000001"});
    };
    limited(100, "rank_0.bin");
    limited(400, "MANIFEST");
    EXPECT_EQ(checkpointer.failures(), 2);
    verify(1);
    checkpointer.start(state_at(2), tensors.whole());
    EXPECT_TRUE(checkpointer.finish()->saved);
    verify(2);
}

TEST_F(CheckpointerTest, AFolderThatCannotBeMadeIsAnErrorOfAllRanksAtTheStart) {
    write_text(run_ + "/checkpoints", "a file, not a folder");
    as_ranks(2, [&](Communicator& world) {
        Checkpointer checkpointer(run_, options_, world);
        expect_error(ExitCode::kIo, {"checkpoints"}, [&] { checkpointer.take_over(); });
    });
}

// What is saved is what was there at start(), whatever training does to it meanwhile.
TEST_F(CheckpointerTest, AsynchronousSavesHoldTheBytesOfTheirStart) {
    const auto saved_file = [&](bool asynchronous) {
        options_.asynchronous = asynchronous;
        as_ranks(2, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            checkpointer.take_over();
            LogicalTensors tensors(5);
            const auto parts = parts_of(tensors, world);
            checkpointer.start(state_at(5), parts);
            if (asynchronous)
                for (const CheckpointPart& part : parts)
                    std::memset(part.data.data, 0x5a, static_cast<size_t>(part.data.bytes()));
            EXPECT_TRUE(checkpointer.finish()->saved);
        });
        return read_file(file(5, "rank_0.bin"), "x") + read_file(file(5, "rank_1.bin"), "x") +
               read_file(file(5, "MANIFEST"), "x");
    };
    const std::string synchronous = saved_file(false);
    EXPECT_EQ(saved_file(true), synchronous);
}

// Rank 1's file is a pipe nobody reads: its writer waits in open(2), and no rank waits for it.
TEST_F(CheckpointerTest, PollNeverWaitsForAWriter) {
    as_ranks(2, [&](Communicator& world) {
        Checkpointer checkpointer(run_, options_, world);
        checkpointer.take_over();
        const std::string pipe = unfinished(1) + "/rank_1.bin";
        if (world.rank() == 0) {
            fs::create_directories(unfinished(1));
            ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
        }
        world.barrier();
        EXPECT_FALSE(checkpointer.poll());
        LogicalTensors tensors(1);
        checkpointer.start(state_at(1), parts_of(tensors, world));
        for (int step = 0; step < 5; ++step) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
            EXPECT_FALSE(checkpointer.poll());
        }
        const auto again = [&] { checkpointer.start(state_at(2), {}); };
        expect_error(ExitCode::kInternal, {"another is under way"}, again);
        world.barrier();
        std::ifstream reader;
        if (world.rank() == 0) reader.open(pipe);
        std::optional<SaveOutcome> outcome;
        while (!outcome) outcome = checkpointer.poll();
        EXPECT_FALSE(outcome->saved);  // pipes have no offsets
        EXPECT_FALSE(checkpointer.poll());
        EXPECT_FALSE(checkpointer.finish());
        checkpointer.start(state_at(2), parts_of(tensors, world));
        while (!(outcome = checkpointer.poll())) std::this_thread::yield();
        EXPECT_TRUE(outcome->saved);
    });
    verify(2);
}

// A checkpointer that goes away during a save leaves something unfinished, which the next one removes.
TEST_F(CheckpointerTest, AnAbandonedSaveIsNoCheckpoint) {
    {
        Communicator alone(single_transport());
        Checkpointer checkpointer(run_, options_, alone);
        checkpointer.take_over();
        LogicalTensors tensors(1);
        checkpointer.start(state_at(1), tensors.whole());
    }
    EXPECT_EQ(steps(), std::vector<int64_t>{});
    EXPECT_EQ(names().size(), 1u);
    save({2});
    EXPECT_EQ(names(), std::vector<std::string>{"step_00000002"});
}

TEST_F(CheckpointerTest, WhoeverStartedLastOwnsTheRun) {
    as_ranks(2, [&](Communicator& world) {
        Checkpointer older(run_, options_, world), newer(run_, options_, world);
        LogicalTensors tensors(3);
        const auto parts = parts_of(tensors, world);
        older.take_over();
        older.start(state_at(1), parts);
        EXPECT_TRUE(older.finish()->saved);
        older.start(state_at(2), parts);  // under way when the newer one starts
        newer.take_over();
        newer.start(state_at(3), parts);
        EXPECT_TRUE(newer.finish()->saved);
        expect_error(ExitCode::kTransient, {"saving step 2"}, [&] { older.finish(); });
        older.start(state_at(4), parts);
        expect_error(ExitCode::kTransient, {"saving step 4", "run.lock", "started this run after"},
                     [&] { older.finish(); });
        newer.start(state_at(5), parts);
        EXPECT_TRUE(newer.finish()->saved);
        world.barrier();
    });
    EXPECT_EQ(names(), (std::vector<std::string>{"step_00000001", "step_00000003", "step_00000005"}));
    for (const int64_t step : steps()) verify(step);
}

// Every rank has written when the owner changes: the last look before the rename notices.
TEST_F(CheckpointerTest, AnOwnerThatChangesBeforeTheRenameIsNoticed) {
    Communicator alone(single_transport()), other(single_transport());
    Checkpointer older(run_, options_, alone), newer(run_, options_, other);
    older.take_over();
    LogicalTensors tensors(1);
    options_.asynchronous = false;
    older.start(state_at(1), tensors.whole());
    const std::string written = unfinished(1);
    while (!fs::exists(written + "/rank_0.bin")) std::this_thread::yield();
    const RunLock stolen(run_);
    expect_error(ExitCode::kTransient, {"saving step 1", "run.lock"}, [&] { older.finish(); });
    EXPECT_EQ(names().size(), 0u);
    newer.take_over();  // of a dead owner
    fs::remove(run_ + "/run.lock");
    newer.start(state_at(2), tensors.whole());
    expect_error(ExitCode::kTransient, {"gone", "run.lock"}, [&] { newer.finish(); });
    EXPECT_EQ(names().size(), 0u);
}

TEST_F(CheckpointerTest, PartsThatAreNotEveryTensorOnceAreABrokenPromise) {
    const auto refused = [&](const std::string& said, const std::function<void(std::vector<CheckpointPart>&)>& change) {
        as_ranks(2, [&](Communicator& world) {
            Checkpointer checkpointer(run_, options_, world);
            checkpointer.take_over();
            LogicalTensors tensors(1);
            auto parts = parts_of(tensors, world);
            if (world.rank() == 1) change(parts);
            checkpointer.start(state_at(1), parts);
            expect_error(ExitCode::kInternal, {said}, [&] { checkpointer.finish(); });
        });
        EXPECT_EQ(names().size(), 0u) << said;
    };
    refused("'parameters/w' lacks elements from 16 to 33", [](auto& parts) { parts.erase(parts.begin()); });
    refused("has twice the elements", [](auto& parts) { parts.push_back(parts[0]); });
    refused("'parameters/w' is fp32 (3, 11), on an earlier rank fp32 (11, 3)", [](auto& parts) {
        parts[0].shape = {3, 11};
    });
    refused("is int32", [](auto& parts) { parts[0].data.dtype = DType::kI32; });
    refused("elements 17 to 34", [](auto& parts) { parts[0].range = {17, 34}; });
}

// Rank 1 sees the checkpoint late, or never: its run directory is another folder here.
TEST_F(CheckpointerTest, RanksWaitUntilTheySeeWhatRankZeroSees) {
    std::mt19937 random(1);
    save_cut(2, 7, random);
    const std::string elsewhere = folder_ / "elsewhere";
    fs::create_directories(elsewhere + "/checkpoints/step_00000007");
    options_.visible_within = std::chrono::milliseconds(100);
    const auto load = [&](const std::function<void(const std::function<void()>&)>& judge) {
        as_ranks(2, [&](Communicator& world) {
            Checkpointer checkpointer(world.rank() == 0 ? run_ : elsewhere, options_, world);
            LogicalTensors tensors(0);
            judge([&] {
                EXPECT_EQ(checkpointer.load_newest(tensors.whole(), [](const std::string&) {})->step, 7);
                EXPECT_EQ(tensors.bytes(), LogicalTensors(7).bytes());
            });
        });
    };
    load([](const auto& loads) { expect_error(ExitCode::kIo, {"rank 1", "not visible", "elsewhere"}, loads); });
    // The manifest before the files it names.
    const std::string late = elsewhere + "/checkpoints/step_00000007/";
    options_.visible_within = std::chrono::seconds(20);
    std::jthread appears([&] {
        for (const char* name : {"MANIFEST", "rank_0.bin", "rank_1.bin"}) {
            std::this_thread::sleep_for(std::chrono::milliseconds(60));
            fs::copy(file(7, name), late + name);
        }
    });
    load([](const auto& loads) { loads(); });
}

}  // namespace
}  // namespace plimsoll
