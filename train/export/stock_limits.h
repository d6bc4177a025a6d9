// What a network may have that no stock program or class computes.
#pragma once

#include <string>

#include "model/config.h"

namespace plimsoll {

// Why neither llama.cpp nor transformers computes the network, as part of a sentence ("layer 0 has K bias (...)");
// empty where it depends on their architectures (gguf_table.h, hf_layout.h).
std::string beyond_stock(const NetworkConfig& network);

}  // namespace plimsoll
