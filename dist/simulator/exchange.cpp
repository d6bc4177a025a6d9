#include "dist/simulator/exchange.h"

#include <algorithm>
#include <array>

namespace plimsoll {
namespace {

size_t at(int64_t index) {
    return static_cast<size_t>(index);
}

std::vector<int64_t> sum_of(const std::array<const std::vector<int64_t>*, 8>& parts) {
    std::vector<int64_t> sum(parts.front()->size(), 0);
    for (const std::vector<int64_t>* part : parts)
        for (size_t r = 0; r < sum.size(); ++r) sum[r] += (*part)[r];
    return sum;
}

}  // namespace

Exchange::Exchange(int ranks)
    : sent_inside(at(ranks), 0),
      received_inside(at(ranks), 0),
      sent_outside(at(ranks), 0),
      received_outside(at(ranks), 0) {}

void Exchange::add(int from, int to, int64_t bytes, int64_t ranks_per_node) {
    if (from == to) return;
    const bool inside = from / ranks_per_node == to / ranks_per_node;
    (inside ? sent_inside : sent_outside)[at(from)] += bytes;
    (inside ? received_inside : received_outside)[at(to)] += bytes;
}

bool Exchange::empty() const {
    const auto nothing = [](const std::vector<int64_t>& bytes) {
        return std::ranges::all_of(bytes, [](int64_t b) { return b == 0; });
    };
    return nothing(sent_inside) && nothing(sent_outside);
}

std::vector<int64_t> PlanTraffic::sent() const {
    return sum_of({&out.sent_inside, &out.sent_outside, &out_again.sent_inside, &out_again.sent_outside,
                   &back.sent_inside, &back.sent_outside, &back_again.sent_inside, &back_again.sent_outside});
}

std::vector<int64_t> PlanTraffic::received() const {
    return sum_of({&out.received_inside, &out.received_outside, &out_again.received_inside, &out_again.received_outside,
                   &back.received_inside, &back.received_outside, &back_again.received_inside,
                   &back_again.received_outside});
}

PlanTraffic traffic_of(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options,
                       int64_t ranks_per_node) {
    PlanTraffic traffic{Exchange(options.servers), Exchange(options.servers), Exchange(options.servers),
                        Exchange(options.servers)};
    const std::array hops{&traffic.out, &traffic.out_again, &traffic.back, &traffic.back_again};  // by CaHop
    for_each_transfer(plan, keys_of(plan, segments, options), segments, options,
                      [&](CaHop hop, int from, int to, int64_t bytes) {
                          hops[static_cast<size_t>(hop)]->add(from, to, bytes, ranks_per_node);
                      });
    return traffic;
}

double all_to_all_seconds(const Exchange& exchange, const NetworkCosts& network) {
    if (exchange.empty()) return 0;
    const auto most = [](const std::vector<int64_t>& sent, const std::vector<int64_t>& received) {
        return static_cast<double>(std::max(*std::ranges::max_element(sent), *std::ranges::max_element(received)));
    };
    const double peers = static_cast<double>(exchange.sent_inside.size()) - 1;
    return std::max(network.intra_byte * most(exchange.sent_inside, exchange.received_inside),
                    network.inter_byte * most(exchange.sent_outside, exchange.received_outside)) +
           network.latency * peers;
}

double out_seconds(const PlanTraffic& traffic, const NetworkCosts& network) {
    return all_to_all_seconds(traffic.out, network) + all_to_all_seconds(traffic.out_again, network);
}

double back_seconds(const PlanTraffic& traffic, const NetworkCosts& network) {
    return all_to_all_seconds(traffic.back, network) + all_to_all_seconds(traffic.back_again, network);
}

}  // namespace plimsoll
