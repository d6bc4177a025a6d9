// Logits of given ids: what a model says, for comparison with other programs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "train/trained_model.h"

namespace plimsoll {

// Logits (ids, vocabulary) of one document on the CPU, in fp32 or fp64 throughout. The ids are all there is: a model
// with placeholders wants theirs in front. Throws Error (78) for ids outside the vocabulary, and more of them than a
// model with learned positions has rows for.
std::vector<double> logits_of(TrainedModel& model, std::span<const int32_t> ids, DType precision, int threads);

// The integers of a text, between blanks, commas and brackets. Throws Error (78) for anything else, naming `path`.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& path);

// Writes a matrix as NumPy's .npy, format 1.0, fp32 or fp64.
void write_npy(const std::string& path, std::span<const double> values, int64_t rows, int64_t columns, DType dtype);

}  // namespace plimsoll
