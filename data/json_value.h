// JSON values in messages.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "kernels/error.h"

namespace plimsoll {

// A value as a message shows it: nlohmann's dump() of a list in a list in a list ... overflows the stack.
inline std::string shown(const nlohmann::json& value) {
    return value.is_structured() ? std::string("an ") + value.type_name() : brief(value.dump());
}

}  // namespace plimsoll
