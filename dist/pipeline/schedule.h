// Pipeline schedules as data: what each stage computes, sends and receives, in its order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

enum class ActionKind : uint8_t {
    kForward,
    kBackward,  // gradient of inputs
    kWeight,    // gradient of weights; directly after its kBackward the two may run as one
    kSendForward,
    kReceiveForward,
    kSendBackward,
    kReceiveBackward,
    kServeForward,  // a tick without work of its own: the stage serves core attention of others
    kServeBackward,
};
std::string_view name_of(ActionKind kind);

struct Action {
    ActionKind kind{};
    int64_t micro_batch = 0;  // -1 in kServe*
    int chunk = 0;            // of this stage, also in what it sends and receives
    int64_t tick = -1;        // same-phase schedules number their ticks 0, 1, 2 ...; -1 elsewhere and in communication
    bool operator==(const Action&) const = default;
};

// Chunk c of stage s is virtual stage c * stages + s. A micro batch goes through virtual stages 0 .. stages * chunks -
// 1 and back. Neighbours in a list of actions that communicate form one group: all are posted at once, and the next
// action starts when all are matched. Nothing is buffered: a send ends with its receive. Messages from one stage to
// another match in the order of the two lists. One stage alone has no messages.
struct Schedule {
    std::string name;
    int stages = 1;
    int chunks = 1;
    int64_t micro_batches = 0;
    std::vector<std::vector<Action>> actions;  // by stage
};

int virtual_stage_of(const Schedule& schedule, int stage, const Action& action);
// The stage at the other end of a message; -1 if `action` is no message.
int peer_of(const Schedule& schedule, int stage, const Action& action);
bool communicates(ActionKind kind);
// "send forward of micro batch 3, chunk 0".
std::string describe(const Action& action);

// What the stages compute in a tick of a same-phase schedule.
struct Tick {
    bool forward = true;
    std::vector<int64_t> micro_batch;  // by stage; -1 where it only serves core attention of others
};
// By number. Throws Error if an action that is no message lies outside of ticks: in any other schedule.
std::vector<Tick> ticks_of(const Schedule& schedule);

// Seconds, or any unit: all results have the same. The vectors are by virtual stage.
struct PipelineCosts {
    std::vector<double> forward, backward, weight;
    double send = 0;  // from the moment both sides of a message are there
};
// Every action takes 1, messages take nothing.
PipelineCosts unit_costs(int virtual_stages);

// Generators. All schedules accumulate gradients in ascending micro batch order, so their sums have equal bits, and end
// with unbuffered sends. Throw Error (78) for sizes below 1 and what is named below.

// 1F1B, PipeDream-flush (arXiv:2104.04473, section 2.2.1): stage s holds min(M, stages - s) micro batches.
Schedule one_forward_one_backward(int stages, int64_t micro_batches);
// 1F1B over `chunks` >= 2 virtual stages each (arXiv:2104.04473, section 2.2.2, the order of Megatron-LM): bubbles
// shrink by `chunks`, messages grow by it. Messages stand where nobody waits if backward and weight take 2 forward
// together; simulated, with 3 forward (recomputed activations) it takes up to 8 % longer than without waiting.
// Throws Error (78) unless `stages` divides `micro_batches`.
Schedule interleaved(int stages, int64_t micro_batches, int chunks);
// ZB-H1 (arXiv:2401.10241): forward and backward as in 1F1B; stage s runs each kWeight s micro batches late, so every
// stage holds min(M, stages) micro batches: as many as the first stage of 1F1B, never more. Made for kWeight as long as
// kForward; where it is much shorter, stages wait for each other's messages: use zero_bubble_greedy.
Schedule zero_bubble_h1(int stages, int64_t micro_batches);
// List scheduling with at most `in_flight_cap` >= 1 micro batches per stage, for measured `costs` (at least 0, not all
// 0, equal on all ranks). Keeps the smallest simulated makespan of eight combinations of rules with four placements of
// messages each, and, where the cap allows, of ZB-H1 and 1F1B themselves: never slower than these. A gradient is sent
// before the kWeight of its micro batch, or after it where the receiver would not be there yet.
Schedule zero_bubble_greedy(int stages, int64_t micro_batches, const PipelineCosts& costs, int64_t in_flight_cap);
// All stages run forward in one tick, or all backward: forward and backward ticks alternate, ticks in which no stage
// has work are left out. `in_flight_cap` in stages .. 2 stages - 1: the first stage withholds a forward while it holds
// so many; stage s holds at most min(M, in_flight_cap, 2 (stages - s) - 1), with 2 stages - 1 the cap never binds.
Schedule same_phase(int stages, int64_t micro_batches, int64_t in_flight_cap);

struct ScheduleOptions {
    int stages = 1;
    int64_t micro_batches = 1;
    int chunks = 1;             // of "interleaved"
    int64_t in_flight_cap = 0;  // of "zb-greedy" (0: stages, as 1F1B) and "same-phase" (0: 2 stages - 1)
    PipelineCosts costs;        // of "zb-greedy"; empty: unit costs
};
// "1f1b", "interleaved", "zb-h1", "zb-greedy" or "same-phase". Throws Error (78) for another name, naming these, and
// for options that the schedule does not have.
Schedule make_schedule(std::string_view name, const ScheduleOptions& options);

}  // namespace plimsoll
