// The keys of GGUF files of architecture plimsoll: plimsoll.SECTION.KEY for every key of the configuration's sections
// model, attention and loss, plimsoll.vocab_size, and plimsoll.tokenizer, a tokenizer.json.
#pragma once

#include "train/export/gguf_file.h"
#include "train/trained_model.h"

namespace plimsoll {

void add_own_keys(GgufMetadata& metadata, const TrainedModel& model);
// A model of these keys whose parameters are zero. A key of the configuration that is not there has its default.
// Throws Error (78) for a key of another type, an unknown one under plimsoll.model, .attention or .loss, and values
// that are no network's; before it allocates: for a network larger than the file.
TrainedModel read_own_keys(const GgufFile& file);

}  // namespace plimsoll
