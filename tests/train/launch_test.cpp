// Which launcher the environment tells of, and as which rank.
#include "train/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>

#include "train/train_test_support.h"

namespace plimsoll {
namespace {

// The environment of a process, with nothing of a launcher in it but this.
class Launched {
  public:
    explicit Launched(const std::map<std::string, std::string>& variables) {
        for (const char* name :
             {"PLIMSOLL_RENDEZVOUS", "PLIMSOLL_RANK", "PLIMSOLL_RANKS", "PLIMSOLL_JOB_KEY", "OMPI_COMM_WORLD_RANK",
              "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_MCA_ess_base_jobid", "PMIX_RANK",
              "PMIX_NAMESPACE", "PMI_RANK", "PMI_SIZE", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID",
              "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"}) {
            const char* value = std::getenv(name);
            before_[name] = value ? std::optional<std::string>(value) : std::nullopt;
            unsetenv(name);
        }
        for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
    }
    ~Launched() {
        for (const auto& [name, value] : before_)
            value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
    }

  private:
    std::map<std::string, std::optional<std::string>> before_;
};

// As srun sets them, Slurm 22.05: of a task of a step, and of the batch script.
std::map<std::string, std::string> task_of(const char* rank, const char* tasks) {
    return {{"SLURM_JOB_ID", "7"},   {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", tasks},
            {"SLURM_NTASKS", tasks}, {"SLURM_PROCID", rank}, {"SLURM_LOCALID", "1"}};
}

TEST(LaunchedRanks, AloneWithoutALauncher) {
    const Launched here({});
    const Launch launch = launched_ranks();
    EXPECT_EQ(launch.launcher, Launcher::kNone);
    EXPECT_EQ(launch.ranks, 1);
    EXPECT_FALSE(launch.local_rank);
    EXPECT_EQ(rank_of_launch(), 0);
}

TEST(LaunchedRanks, ABatchScriptIsOneProcess) {
    const Launched here({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}});
    EXPECT_EQ(launched_ranks().launcher, Launcher::kNone);
}

TEST(LaunchedRanks, OneTaskOfSrunIsAlone) {
    const Launched here(task_of("0", "1"));
    EXPECT_EQ(launched_ranks().launcher, Launcher::kNone);
}

TEST(LaunchedRanks, TasksThatCannotMeetAreRefused) {
    const Launched here(task_of("2", "4"));
    expect_error(ExitCode::kBadInput, {"task 2 of 4", "--mpi=pmix", "PLIMSOLL_RENDEZVOUS=host:port"},
                 [] { launched_ranks(); });
    EXPECT_EQ(rank_of_launch(), 2);  // so that the first says it
}

TEST(LaunchedRanks, TcpWinsOverMpi) {
    auto variables = task_of("2", "4");
    variables.insert({{"PLIMSOLL_RENDEZVOUS", "node1:29400"}, {"PMIX_RANK", "2"}, {"PMIX_NAMESPACE", "slurm.7.0"}});
    const Launched here(variables);
    const Launch launch = launched_ranks();
    EXPECT_EQ(launch.launcher, Launcher::kTcp);
    EXPECT_EQ(launch.rank, 2);
    EXPECT_EQ(launch.ranks, 4);
    EXPECT_EQ(launch.local_rank, 1);
    EXPECT_EQ(launch.job, "7_0");
    EXPECT_EQ(launch.tcp->host, "node1");
    EXPECT_EQ(rank_of_launch(), 2);
}

// Ranks that somebody numbered by hand need not be Slurm's tasks: whose number on the machine means nothing then.
TEST(LaunchedRanks, TcpWithOwnNumbersCountsLocalRanks) {
    auto variables = task_of("0", "1");
    variables.insert({{"PLIMSOLL_RENDEZVOUS", "[::1]:29400"},
                      {"PLIMSOLL_RANK", "1"},
                      {"PLIMSOLL_RANKS", "2"},
                      {"PLIMSOLL_JOB_KEY", "a/b"}});
    const Launched here(variables);
    const Launch launch = launched_ranks();
    EXPECT_EQ(launch.rank, 1);
    EXPECT_EQ(launch.ranks, 2);
    EXPECT_FALSE(launch.local_rank);
    EXPECT_EQ(launch.job, "a_b");
    EXPECT_EQ(rank_of_launch(), 1);
}

TEST(LaunchedRanks, MpirunInsideOfATask) {
    auto variables = task_of("0", "1");
    variables.insert({{"OMPI_COMM_WORLD_RANK", "3"},
                      {"OMPI_COMM_WORLD_SIZE", "4"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                      {"PMIX_RANK", "3"}});
    const Launched here(variables);
    EXPECT_EQ(rank_of_launch(), 3);
    if (!has_mpi()) return expect_error(ExitCode::kBadInput, {"rank 3 of several", "no MPI"}, [] { launched_ranks(); });
    const Launch launch = launched_ranks();
    EXPECT_EQ(launch.launcher, Launcher::kMpi);
    EXPECT_EQ(launch.rank, 3);
    EXPECT_EQ(launch.ranks, 4);
    EXPECT_EQ(launch.local_rank, 0);
}

TEST(LaunchedRanks, SrunWithPmix) {
    auto variables = task_of("2", "4");
    variables.insert({{"PMIX_RANK", "2"}, {"PMIX_NAMESPACE", "slurm.pmix.7.0"}});
    const Launched here(variables);
    if (!has_mpi()) return expect_error(ExitCode::kBadInput, {"rank 2 of several", "no MPI"}, [] { launched_ranks(); });
    const Launch launch = launched_ranks();
    EXPECT_EQ(launch.launcher, Launcher::kMpi);
    EXPECT_EQ(launch.rank, 2);
    EXPECT_EQ(launch.ranks, 4);
    EXPECT_EQ(launch.local_rank, 1);
    EXPECT_EQ(launch.job, "slurm_pmix_7_0");
}

}  // namespace
}  // namespace plimsoll
