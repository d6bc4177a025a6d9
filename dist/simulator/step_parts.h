// What the ways to simulate a step share.
#pragma once

#include "dist/simulator/costs.h"

namespace plimsoll {

// The end of a step: what of the gradients' reduction one micro batch's backward does not hide, the update, and what of
// the parameters' gathering one micro batch's forward does not hide.
double update_seconds(const StepCosts& costs, double forward, double backward);

}  // namespace plimsoll
