#include "dist/cad/planning.h"

#include <cmath>
#include <numeric>
#include <tuple>

#include "kernels/error.h"

namespace plimsoll {

CaDocuments::CaDocuments(std::span<const CaSegment> segments, int servers)
    : segments_(segments), order_(segments.size()), of_(segments.size()) {
    std::iota(order_.begin(), order_.end(), 0);
    const auto key = [&](int64_t i) {
        const CaSegment& s = segments[static_cast<size_t>(i)];
        return std::tuple(s.document, s.begin, s.end, i);
    };
    const auto before = [&](int64_t a, int64_t b) { return key(a) < key(b); };
    if (!std::ranges::is_sorted(order_, before)) std::ranges::sort(order_, before);
    for (size_t i = 0; i < order_.size(); ++i) {
        const CaSegment& s = segments[static_cast<size_t>(order_[i])];
        const CaSegment* previous = i == 0 ? nullptr : &segments[static_cast<size_t>(order_[i - 1])];
        const bool first = previous == nullptr || previous->document != s.document;
        const int64_t expected = first ? 0 : previous->end;
        check(s.begin == expected && s.end >= s.begin,
              "document {}: a segment [{}, {}) where position {} is next; segments must cover it once", s.document,
              s.begin, s.end, expected);
        check(s.home >= 0 && s.home < servers, "document {}: home {} of a segment, must lie in 0 .. {}", s.document,
              s.home, servers - 1);
        if (first) first_.push_back(i);
        of_[static_cast<size_t>(order_[i])] = static_cast<int64_t>(first_.size()) - 1;
    }
    first_.push_back(order_.size());
}

int64_t CaDocuments::owned(int64_t document, int rank, int64_t begin, int64_t end) const {
    int64_t rows = 0;
    for (const int64_t i : segments_of(document)) {
        const CaSegment& s = segments_[static_cast<size_t>(i)];
        if (s.begin >= end) break;
        if (s.home == rank) rows += std::max<int64_t>(0, std::min(end, s.end) - std::max(begin, s.begin));
    }
    return rows;
}

CaProblem::CaProblem(std::span<const CaSegment> all, const CaOptions& wanted)
    : segments(all),
      options(wanted),
      documents(all, wanted.servers),
      pairs(wanted),
      query_bytes(static_cast<double>(wanted.costs.query())),
      key_bytes(static_cast<double>(wanted.costs.key())),
      loads(static_cast<size_t>(wanted.servers), 0) {
    if (query_bytes + key_bytes == 0) query_bytes = key_bytes = 1;
    for (const CaSegment& s : segments) {
        const int64_t own = pairs.between(s.begin, s.end);
        loads[static_cast<size_t>(s.home)] += own;
        total += own;
        largest_block = std::max(largest_block, pairs.between(std::max(s.begin, s.end - options.block), s.end));
    }
    speed_sum = options.servers;
    if (!options.speeds.empty()) speed_sum = std::accumulate(options.speeds.begin(), options.speeds.end(), 0.0);
}

int64_t CaProblem::share(int r, double factor) const {
    const double speed = options.speeds.empty() ? 1.0 : options.speeds[static_cast<size_t>(r)];
    return static_cast<int64_t>(std::floor(factor * (static_cast<double>(total) * speed / speed_sum)));
}

void HeldKeys::add(int64_t document, int server, int64_t end) {
    if (problem_.options.window > 0) return;
    std::vector<Prefix>& prefixes = prefixes_[static_cast<size_t>(document)];
    for (Prefix& prefix : prefixes)
        if (prefix.server == server) {
            prefix.end = std::max(prefix.end, end);
            return;
        }
    prefixes.push_back({server, end});
}

int64_t HeldKeys::missing(int64_t document, int server, int64_t begin, int64_t end) const {
    const CaDocuments& documents = problem_.documents;
    if (problem_.options.window > 0) {
        const KeySpan keys = keys_seen(begin, end, problem_.options);
        return keys.rows() - documents.owned(document, server, 0, keys.prefix) -
               documents.owned(document, server, keys.begin, keys.end);
    }
    int64_t held = 0;
    for (const Prefix& prefix : prefixes_[static_cast<size_t>(document)])
        if (prefix.server == server) held = prefix.end;
    return end <= held ? 0 : end - held - documents.owned(document, server, held, end);
}

double bytes_of_tasks(const CaProblem& problem, std::span<const CaTask> tasks) {
    HeldKeys held(problem);
    double bytes = 0;
    for (const CaTask& task : tasks) {
        const int64_t document = problem.documents.of(task.segment);
        const bool foreign = task.server != problem.segment(task.segment).home;
        if (!foreign && problem.documents.segments_of(document).size() == 1) continue;
        if (foreign) bytes += problem.query_bytes * static_cast<double>(task.end - task.begin);
        bytes += problem.key_bytes * static_cast<double>(held.missing(document, task.server, task.begin, task.end));
        held.add(document, task.server, task.end);
    }
    return bytes;
}

}  // namespace plimsoll
