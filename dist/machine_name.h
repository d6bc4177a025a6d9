// What tells machines apart.
#pragma once

#include <string>

namespace plimsoll {

std::string host_name();
// The kernel's, new at every start of the machine; empty where /proc does not say.
std::string boot_id();
// Both: machines may have the same name, and one kernel may serve hosts of several names.
std::string machine_name();

}  // namespace plimsoll
