// Learning rate against step.
#pragma once

#include <cstdint>
#include <string>

namespace plimsoll {

struct ScheduleSection {
    std::string kind = "cosine";
    int64_t warmup_steps = 100;
    double final_fraction = 0.1;
    double decay_fraction = 0.2;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("kind", self.kind, {"constant", "cosine", "linear", "wsd"},
                 "learning rate after warmup; wsd = constant, then 1 - sqrt");
        v.field("warmup_steps", self.warmup_steps, "steps of linear warmup from 0");
        v.field("final_fraction", self.final_fraction, "cosine, linear, wsd: learning rate at the last step / peak");
        v.field("decay_fraction", self.decay_fraction, "wsd: share of the steps in the final decay");
    }
};

// Learning rate of update `step` (0-based) of `max_steps`.
//   warmup: lr (step + 1) / warmup_steps.  Then, with p from 0 just after warmup to 1 at the last update:
//   cosine: f + (1 - f)(1 + cos(pi p)) / 2;  linear: 1 - (1 - f) p;
//   wsd: 1, and over the last decay_fraction of all steps f + (1 - f)(1 - sqrt(q))           Hägele et al.,
//   arXiv:2405.18392
double learning_rate(const ScheduleSection& schedule, double lr, int64_t step, int64_t max_steps);

}  // namespace plimsoll
