#include "train/health.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/error.h"

namespace plimsoll {

using nlohmann::json;

std::string Health::Window::complaint(double value, const HealthSection& config) const {
    if (!std::isfinite(value)) return fmt::format("{} {}", name, value);
    if (config.spike == 0 || values.size() < static_cast<size_t>(config.window)) return {};
    const auto count = static_cast<double>(values.size());
    double mean = 0, squares = 0;
    for (const double v : values) mean += v / count;
    for (const double v : values) squares += (v - mean) * (v - mean) / count;
    const double deviation = std::sqrt(squares);
    if (value <= mean + config.spike * deviation) return {};
    return fmt::format("{} {:.4g} is {:.1f} standard deviations above the mean of the last {} good steps, {:.4g}", name,
                       value, (value - mean) / std::max(deviation, 1e-300), values.size(), mean);
}

void Health::Window::add(double value, const HealthSection& config) {
    values.push_back(value);
    if (values.size() > static_cast<size_t>(config.window)) values.pop_front();
}

Verdict Health::judge(double loss, double norm) {
    reason_ = loss_.complaint(loss, config_);
    if (reason_.empty()) reason_ = norm_.complaint(norm, config_);
    if (reason_.empty()) {
        loss_.add(loss, config_), norm_.add(norm, config_);
        in_a_row_ = 0;
        return Verdict::kUpdate;
    }
    if (++in_a_row_ <= config_.max_skips) {
        ++skipped_;
        return Verdict::kSkip;
    }
    if (rollbacks_ == config_.max_rollbacks) return Verdict::kStop;
    ++rollbacks_;
    in_a_row_ = 0;
    return Verdict::kRollBack;
}

std::string Stragglers::add(std::span<const double> seconds) {
    sums_.resize(seconds.size());
    for (size_t r = 0; r < seconds.size(); ++r) sums_[r] += seconds[r];
    if (++steps_ < kSteps) return {};
    const size_t slowest = static_cast<size_t>(std::ranges::max_element(sums_) - sums_.begin());
    const double most = sums_[slowest] / kSteps;
    std::vector<double> others = std::exchange(sums_, {});
    steps_ = 0;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(slowest));
    if (others.empty()) return {};
    std::ranges::nth_element(others, others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2));
    const double usual = others[others.size() / 2] / kSteps;
    if (most < 1.5 * usual) return {};
    return fmt::format("straggler: rank {} computes {:.0f} ms per step, the others {:.0f} ms", slowest, 1e3 * most,
                       1e3 * usual);
}

json Health::state() const {
    return {{"loss", loss_.values},
            {"norm", norm_.values},
            {"in_a_row", in_a_row_},
            {"skipped", skipped_},
            {"rollbacks", rollbacks_}};
}

void Health::restore(const json& state) {
    try {
        loss_.values = state.at("loss").get<std::deque<double>>();
        norm_.values = state.at("norm").get<std::deque<double>>();
        in_a_row_ = state.at("in_a_row");
        skipped_ = std::max(skipped_, state.at("skipped").get<int64_t>());
        rollbacks_ = std::max(rollbacks_, state.at("rollbacks").get<int64_t>());
    } catch (const json::exception& error) {
        fail_input("the checkpoint's health record is not one: {}", error.what());
    }
}

}  // namespace plimsoll
