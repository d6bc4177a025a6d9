// Mean losses by position, in bins that double in width.
#pragma once

#include <bit>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace plimsoll {

// Bin 0 holds position 0, bin b > 0 positions 2^(b-1) .. 2^b - 1.
class LossBins {
  public:
    void add(int64_t position, double nll) {
        const auto bin = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position)));
        if (bin >= sums_.size()) sums_.resize(bin + 1), counts_.resize(bin + 1);
        sums_[bin] += nll, ++counts_[bin];
    }
    // x: first position of the bin (1 for that of position 0 alone, so that axes may be logarithmic: positions count
    // from 1), y: mean loss in nats. Empty bins are left out.
    nlohmann::json curve(const std::string& name) const {
        nlohmann::json x = nlohmann::json::array(), y = x;
        for (size_t bin = 0; bin < sums_.size(); ++bin) {
            if (counts_[bin] == 0) continue;
            x.push_back(bin == 0 ? 1 : (int64_t{1} << (bin - 1)) + 1);
            y.push_back(sums_[bin] / static_cast<double>(counts_[bin]));
        }
        return {{"name", name}, {"x", std::move(x)}, {"y", std::move(y)}};
    }

  private:
    std::vector<double> sums_;
    std::vector<int64_t> counts_;
};

}  // namespace plimsoll
