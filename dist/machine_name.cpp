#include "dist/machine_name.h"

#include <unistd.h>

#include <array>
#include <fstream>

namespace plimsoll {

std::string host_name() {
    std::array<char, 65> name{};
    gethostname(name.data(), name.size() - 1);
    return name.data();
}

std::string boot_id() {
    std::string id;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
    return id;
}

std::string machine_name() {
    return host_name() + " " + boot_id();
}

}  // namespace plimsoll
