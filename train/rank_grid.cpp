#include "train/rank_grid.h"

#include "kernels/error.h"

namespace plimsoll {

RankPlace place_of(int rank, int ranks, const ParallelSection& parallel) {
    const int stages = static_cast<int>(parallel.stages);
    if (ranks % stages)
        fail_input("parallel.stages = {} does not divide {} ranks; start a multiple of it", stages, ranks);
    return {.stages = stages, .stage = rank % stages, .data_ranks = ranks / stages, .data_rank = rank / stages};
}

RankGrid::RankGrid(Communicator everyone, const RunConfig& config)
    : RankPlace(place_of(everyone.rank(), everyone.size(), config.parallel)),
      world(std::move(everyone)),
      data(world.split(stage, world.rank(), "data")),
      forward(world.split(data_rank, world.rank(), "stages, forward")),
      backward(world.split(data_rank, world.rank(), "stages, backward")) {
    if (config.cad.mode == "on" && world.size() > 1) attention.emplace(world.split(0, world.rank(), "core attention"));
}

void RankGrid::bind(const Exec& exec) {
    for_each_group([&](Communicator& group) {
        if (group.size() > 1) group.bind(exec);
    });
}

RankGrid::Traffic RankGrid::traffic() {
    Traffic sum;
    for_each_group([&](const Communicator& group) {
        for (size_t kind = 0; kind < kCommKinds; ++kind) {
            const CommStats& stats = group.stats(static_cast<CommKind>(kind));
            sum.bytes += stats.bytes, sum.wait_seconds += stats.wait_seconds;
        }
    });
    return sum;
}

}  // namespace plimsoll
