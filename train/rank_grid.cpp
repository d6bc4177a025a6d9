#include "train/rank_grid.h"

#include "kernels/error.h"

namespace plimsoll {
namespace {

int checked_stages(const Communicator& world, int64_t stages) {
    if (world.size() % stages)
        fail_input("parallel.stages = {} does not divide {} ranks; start a multiple of it", stages, world.size());
    return static_cast<int>(stages);
}

}  // namespace

RankGrid::RankGrid(Communicator everyone, int64_t stages)
    : world(std::move(everyone)),
      data(world.split(world.rank() % checked_stages(world, stages), world.rank(), "data")),
      forward(world.split(world.rank() / static_cast<int>(stages), world.rank(), "stages, forward")),
      backward(world.split(world.rank() / static_cast<int>(stages), world.rank(), "stages, backward")) {
    this->stages = forward.size(), stage = forward.rank(), data_ranks = data.size(), data_rank = data.rank();
}

}  // namespace plimsoll
