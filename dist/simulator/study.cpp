#include "dist/simulator/study.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"

namespace plimsoll {
namespace {

double mean_of(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// The `index`-th run of every step.
PolicySummary summary_of(std::span<const std::vector<PolicyRun>> steps, size_t index, double memory) {
    const PolicyRun& first = steps.front()[index];
    PolicySummary summary;
    summary.policy = first.policy, summary.layout = first.layout;
    summary.imbalance_before = summary.imbalance = 0;
    const auto count = static_cast<double>(steps.size());
    for (const std::vector<PolicyRun>& runs : steps) {
        const SimulatedStep& result = runs[index].result;
        check(runs[index].policy == first.policy && runs[index].layout == first.layout, "steps of different settings");
        summary.seconds.push_back(result.seconds);
        summary.imbalance_before += result.imbalance_before / count;
        summary.imbalance += result.imbalance / count;
        summary.forward += result.forward, summary.backward += result.backward;
        summary.idle += result.idle() / count;
        summary.exposed += result.exposed / count;
        const double sent = static_cast<double>(std::reduce(result.sent.begin(), result.sent.end()));
        summary.sent_most += static_cast<double>(*std::ranges::max_element(result.sent)) / count;
        summary.sent_mean += sent / static_cast<double>(result.sent.size()) / count;
        summary.memory = std::max(summary.memory, result.peak_memory());
        summary.over_cap += static_cast<double>(result.over_cap) / count;
        summary.as_fixed += runs[index].as_fixed ? 1 / count : 0;
    }
    summary.forward *= 1 / count, summary.backward *= 1 / count;
    summary.mean = mean_of(summary.seconds);
    summary.p50 = percentile(summary.seconds, 0.5);
    summary.p95 = percentile(summary.seconds, 0.95);
    summary.fits = summary.memory <= memory;
    return summary;
}

bool better(const PolicySummary& a, const PolicySummary& b) {
    if (a.fits != b.fits) return a.fits;
    return a.fits ? a.mean < b.mean : a.memory < b.memory;
}

}  // namespace

const PolicySummary& Study::of(Policy policy) const {
    const auto found = std::ranges::find(policies, policy, &PolicySummary::policy);
    check(found != policies.end(), "no policy '{}' in the study", name_of(policy));
    return *found;
}

double Study::speed_up_over(Policy policy) const {
    const PolicySummary &other = of(policy), &cad = of(Policy::kCad);
    return other.fits && cad.fits ? other.mean / cad.mean : 0;
}

double Study::speed_up_over_best() const {
    double least = 0;
    for (const PolicySummary& other : policies)
        if (!is_cad(other.policy) && other.policy != Policy::kPerfectPacking && other.fits)
            least = least == 0 ? other.mean : std::min(least, other.mean);
    return of(Policy::kCad).fits ? least / of(Policy::kCad).mean : 0;
}

Study summarize(std::span<const std::vector<PolicyRun>> steps, double memory) {
    check(!steps.empty(), "no steps to summarize");
    Study study;
    for (size_t i = 0; i < steps.front().size(); ++i) {
        PolicySummary summary = summary_of(steps, i, memory);
        const auto known = std::ranges::find(study.policies, summary.policy, &PolicySummary::policy);
        if (known == study.policies.end())
            study.policies.push_back(std::move(summary));
        else if (better(summary, *known))
            *known = std::move(summary);
    }
    std::ranges::sort(study.policies, {}, &PolicySummary::policy);
    return study;
}

double percentile(std::vector<double> values, double p) {
    check(!values.empty(), "a percentile of nothing");
    std::ranges::sort(values);
    const double place = p * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const double part = place - static_cast<double>(below);
    return below + 1 < values.size() ? values[below] * (1 - part) + values[below + 1] * part : values.back();
}

}  // namespace plimsoll
