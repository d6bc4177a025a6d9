// A test program whose processes are ranks.
#pragma once

#include "dist/communicator.h"

namespace plimsoll {

// All processes that were started together; each is one rank.
Communicator& world_of_processes();

}  // namespace plimsoll
