// Runs one stage of a pipeline schedule: any schedule, one executor.
#pragma once

#include <functional>
#include <vector>

#include "dist/communicator.h"
#include "dist/pipeline/schedule.h"
#include "kernels/exec.h"

namespace plimsoll {

// What a stage computes, given by whoever owns its layers. `set`: which of the chunk's sets of activations the micro
// batch lives in, from its forward to the gradients of its weights. Tensors are contiguous and of one size.
class StageWork {
  public:
    virtual ~StageWork() = default;
    // Reads stream_in unless the chunk is the first of the network; writes stream_out unless it is the last.
    virtual void forward(int chunk, int64_t micro_batch, int set) = 0;
    // Reads and writes stream_gradient: of what left the chunk, then of what entered it.
    virtual void backward(int chunk, int64_t micro_batch, int set) = 0;
    // The two parts of a backward that a schedule has apart.
    virtual void backward_inputs(int chunk, int64_t micro_batch, int set) = 0;
    virtual void backward_weights(int chunk, int64_t micro_batch, int set) = 0;
    // What travels, in parts() tensors.
    virtual int parts() const { return 1; }
    virtual Tensor stream_in(int chunk, int set, int part) = 0;
    virtual Tensor stream_out(int chunk, int set, int part) = 0;
    virtual Tensor stream_gradient(int chunk, int set, int part) = 0;
    // A tick of a same-phase schedule in which this stage has no micro batch of its own.
    virtual void serve_forward(int64_t /*tick*/) {}
    virtual void serve_backward(int64_t /*tick*/) {}
};

// Seconds of one run on one stage. Everything but computing is the bubble.
struct StageTimes {
    double forward = 0, backward = 0, weight = 0;  // a fused backward counts as backward, serving as what it serves
    double total = 0;
    double computing() const { return forward + backward + weight; }
};

// One stage's actions, and where each micro batch lives meanwhile.
struct StagePlan {
    struct Step {
        Action action;
        int set;
        bool fused;  // a backward with its weights
    };
    std::vector<Step> steps;
    std::vector<int> sets;                 // [chunk]: sets of activations it needs
    std::vector<std::vector<int>> set_of;  // [chunk][micro batch]
    // Whether gradients of weights are computed apart from those of inputs.
    bool splits_backward() const;

    StagePlan(const Schedule& schedule, int stage);
};

class PipelineExecutor {
  public:
    // `forward` and `backward`: the stages, in their order, once for the messages of each direction. Both must outlive
    // this. Throws Error if they are not as many as the schedule's.
    PipelineExecutor(Communicator& forward, Communicator& backward, Schedule schedule);

    // All micro batches, forward and back. Messages go on their way while later actions compute. In ticks of
    // a same-phase schedule without a micro batch of its own the stage serves others. Deterministic: the schedule fixes
    // the order.
    StageTimes run(StageWork& work, const Exec& exec);

  private:
    struct Pending {
        int chunk, set;
        Work work;
    };
    void compute(const StagePlan::Step& step, StageWork& work, StageTimes& times, const Exec& exec);
    void communicate(const StagePlan::Step& step, StageWork& work);
    // Waits for what of this set is under way.
    static void settle(std::vector<Pending>& pending, int chunk, int set);

    Communicator& forward_;
    Communicator& backward_;
    Schedule schedule_;
    StagePlan plan_;
    std::vector<Pending> sends_forward_, sends_backward_, receives_forward_, receives_backward_;
};

}  // namespace plimsoll
