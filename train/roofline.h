// Where a step's time goes, and how far each op is from what the machine allows: the roofline model.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/ceilings.h"
#include "train/profile.h"

namespace plimsoll {

// One traced step.
struct StepProfile {
    double seconds = 0;  // from its begin to its end
    std::vector<OpTime> ops;
};

// An op cannot be faster than the slowest of three: its products, its other arithmetic, its traffic, each alone and at
// its ceiling (Williams et al. 2009, with a third roof). `bound` is that one.
enum class Bound : uint8_t { kProducts, kArithmetic, kMemory };
const char* name_of(Bound bound);

struct RooflineRow {
    OpTime op;
    Bound bound = Bound::kMemory;
    double floor = 0;  // seconds at the ceiling of `bound`

    double flops() const { return op.work.products + op.work.others; }
    double flops_per_second() const { return flops() / op.seconds; }
    double bytes_per_second() const { return op.work.bytes / op.seconds; }
    double intensity() const { return op.work.bytes > 0 ? flops() / op.work.bytes : 0; }  // FLOP per byte
    // Of the ceiling. Above 1 for an op that finds its operands in a cache: memory's ceiling is beyond the caches.
    double share() const { return floor / op.seconds; }
};

struct Roofline {
    std::vector<RooflineRow> rows;  // in the profile's order
    double seconds = 0;             // the step's
    double floor = 0;               // the sum of all rows'

    double in_ops() const;  // seconds
    // Share of the step's time that some op takes; the rest is between ops.
    double accounted() const { return in_ops() / seconds; }
};

// `profile` with counted work.
Roofline make_roofline(const StepProfile& profile, const Ceilings& ceilings);

// A Markdown table of `step`, and what is behind it; the same in JSON.
std::string table(const Roofline& step);
nlohmann::json to_json(const Roofline& step);
std::string describe(const Ceilings& ceilings);
nlohmann::json to_json(const Ceilings& ceilings);

}  // namespace plimsoll
