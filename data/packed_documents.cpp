#include "data/packed_documents.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int64_t kModelContext = 131072;

}  // namespace

PackedDocuments::PackedDocuments(std::unique_ptr<const BigramBackcopy> documents, const std::string& model, int64_t T,
                                 uint64_t seed, int64_t samples)
    : documents_(std::move(documents)),
      model_(model),
      T_(T),
      samples_(samples),
      lengths_(model, {.context = kModelContext, .long_weight = 2, .short_weight = 0.9}, seed) {}

void PackedDocuments::sample(int64_t index, Sample& sample) const {
    sample.tokens.clear();
    sample.document_starts.clear();
    // A row holds at most T + 1 documents: their numbers in different rows differ.
    for (int64_t document = index * (T_ + 1); static_cast<int64_t>(sample.tokens.size()) < T_ + 1; ++document) {
        const auto begin = static_cast<int64_t>(sample.tokens.size());
        if (begin > 0) sample.document_starts.push_back(begin);
        const int64_t length = std::max<int64_t>(2, lengths_(document) * T_ / kModelContext);
        documents_->append(document, std::min(length, T_ + 1 - begin), sample.tokens);
    }
}

std::string PackedDocuments::describe() const {
    return fmt::format("{}; packed in rows of {}, as long as those of '{}' at this context", documents_->describe(), T_,
                       model_);
}

uint64_t PackedDocuments::content_hash() const {
    return hash_name(fmt::format("{:016x} packed {} {}", documents_->content_hash(), model_, T_));
}

}  // namespace plimsoll
