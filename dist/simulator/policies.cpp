#include "dist/simulator/policies.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr double kMinGain = 1.02;  // below, CAD is not worth its plan: as CaOptions::min_gain has it for one plan

using Work = std::vector<std::vector<RankWork>>;  // by column and micro batch

class Runs {
  public:
    Runs(const StepDocuments& documents, const PolicySetting& setting)
        : documents_(documents),
          setting_(setting),
          costs_(setting.costs),
          columns_(setting.columns()),
          schedule_(make_schedule(setting.schedule, {.stages = static_cast<int>(setting.parallel.stages),
                                                     .micro_batches = setting.micro_batches,
                                                     .costs = {}})),
          all_(documents.all()) {}

    std::vector<PolicyRun> run() {
        const StepPlacement whole = place(documents_, static_cast<int>(columns_), 1);
        add(Policy::kFixed, "", simulate_step(whole, schedule_, costs_));
        const SimulatedStep fixed = runs_.back().result;
        for (const int64_t context : contexts()) {
            if (context > 1 || columns_ == 1) {
                add_work(Policy::kSequenceContext, fmt::format("context {}", context), context, by_sequence(context));
                add_work(Policy::kDocumentContext, fmt::format("context {}", context), context,
                         by_document(context, bins_in_order(context)));
            }
            for (const double cap : setting_.caps)
                add_work(Policy::kWlbLike, fmt::format("context {}, cap {}", context, cap), context,
                         by_document(context, bins_by_length(context, cap)));
        }
        add_work(Policy::kPerfectPacking, "", 1, evenly());
        add_cad(whole, fixed);
        return std::move(runs_);
    }

  private:
    std::vector<int64_t> contexts() const {
        if (!setting_.contexts.empty()) return setting_.contexts;
        std::vector<int64_t> contexts;
        for (int64_t context = 1; context <= columns_; context *= 2)
            if (columns_ % context == 0) contexts.push_back(context);
        return contexts;
    }

    void add(Policy policy, std::string layout, SimulatedStep result) {
        check(result.pairs == causal_pairs(all_), "{} computes {} query-key pairs, the documents have {}",
              name_of(policy), result.pairs, causal_pairs(all_));
        runs_.push_back({policy, std::move(layout), std::move(result)});
    }

    void add_work(Policy policy, std::string layout, int64_t context, const Work& work) {
        add(policy, std::move(layout), simulate_pipelines(work, static_cast<int>(context), schedule_, costs_));
    }

    Work empty_work() const {
        return Work(static_cast<size_t>(columns_), std::vector<RankWork>(static_cast<size_t>(setting_.micro_batches)));
    }

    // What a rank of a group gathers and keeps, if the group has `tokens` tokens. Backward adds up and shares out the
    // gradients of keys that it gathered forward.
    void gather(RankWork& work, int64_t context, int64_t tokens) const {
        if (context == 1) return;
        const int64_t others = tokens * (context - 1) / context;
        const NetworkCosts& network = costs_.network;
        const double byte = context <= network.ranks_per_node ? network.intra_byte : network.inter_byte;
        const int64_t key = costs_.forward.bytes.key_out, gradient = costs_.backward.bytes.key_back;
        const double latency = network.latency * static_cast<double>(context - 1);
        work.waits_forward = byte * static_cast<double>(others * key) + latency;
        work.waits_backward = byte * static_cast<double>(others * gradient) + latency;
        // Gathered keys are put together by document, then once more as prefixes of a rank's two chunks, which are as
        // long as one document together; prefixes' gradients are added where they belong, then leave.
        work.copied_forward = 2 * tokens * key;
        work.copied_backward = tokens * gradient;
        work.sent = others * (key + gradient);
        work.kept = static_cast<double>(others) * costs_.memory.key_block;
    }

    // Bins by group and micro batch.
    using Bins = std::vector<std::vector<Bin>>;

    Bins bins_in_order(int64_t context) const {
        Bins bins(static_cast<size_t>(columns_ / context));
        for (const MicroBatchDocuments& micro_batch : documents_.micro_batches) {
            const std::vector<Bin> cut = cut_in_order(micro_batch.all(), columns_ / context);
            for (size_t g = 0; g < bins.size(); ++g) bins[g].push_back(cut[g]);
        }
        return bins;
    }

    Bins bins_by_length(int64_t context, double cap) const {
        const int64_t groups = columns_ / context;
        const double token = costs_.forward.token + costs_.backward.token,
                     pair = costs_.forward.pair + costs_.backward.pair;
        std::vector<Bin> packed = pack_longest_first(all_, groups * setting_.micro_batches,
                                                     cap * static_cast<double>(setting_.tokens * context), token, pair);
        std::ranges::stable_sort(packed, std::ranges::greater{}, [&](const Bin& bin) {
            return token * static_cast<double>(bin.tokens) + pair * static_cast<double>(bin.pairs);
        });
        // Dealt to and fro: bins of similar work run at once, and groups have similar sums.
        Bins bins(static_cast<size_t>(groups));
        for (size_t i = 0; i < packed.size(); ++i) {
            const size_t round = i / bins.size(), place = i % bins.size();
            bins[round % 2 ? bins.size() - 1 - place : place].push_back(packed[i]);
        }
        return bins;
    }

    Work by_document(int64_t context, const Bins& bins) const {
        Work work = empty_work();
        for (size_t c = 0; c < work.size(); ++c)
            for (size_t m = 0; m < work[c].size(); ++m) {
                const Bin& bin = bins[c / static_cast<size_t>(context)][m];
                const auto member = static_cast<int64_t>(c) % context;
                work[c][m].tokens = share(bin.tokens, context, member);
                work[c][m].pairs = share(bin.pairs, context, member);
                gather(work[c][m], context, bin.tokens);
            }
        return work;
    }

    Work by_sequence(int64_t context) const {
        Work work = empty_work();
        for (size_t m = 0; m < documents_.micro_batches.size(); ++m) {
            const std::vector<Bin> chunks = cut_in_order(documents_.micro_batches[m].all(), 2 * columns_);
            for (int64_t c = 0; c < columns_; ++c) {
                const int64_t first = c / context * 2 * context, member = c % context;
                const Bin &front = chunks[static_cast<size_t>(first + member)],
                          &back = chunks[static_cast<size_t>(first + 2 * context - 1 - member)];
                RankWork& w = work[static_cast<size_t>(c)][m];
                w.tokens = front.tokens + back.tokens;
                w.pairs = front.pairs + back.pairs;
                gather(w, context, w.tokens * context);
            }
        }
        return work;
    }

    Work evenly() const {
        Work work = empty_work();
        const int64_t parts = columns_ * setting_.micro_batches, pairs = causal_pairs(all_);
        int64_t part = 0;
        for (std::vector<RankWork>& column : work)
            for (RankWork& w : column) w.tokens = setting_.tokens, w.pairs = share(pairs, parts, part++);
        return work;
    }

    // Part `index` of a sum in `parts` equal ones, the first ones by one larger.
    static int64_t share(int64_t sum, int64_t parts, int64_t index) {
        return sum / parts + (index < sum % parts ? 1 : 0);
    }

    // The most micro batches, up to what same-phase takes, with which the first stage fills nine tenths of its memory
    // at most; the rest is for buffers. At least as many as there are stages: with fewer it does not run.
    int64_t in_flight_cap() const {
        const int64_t stages = setting_.parallel.stages;
        if (setting_.in_flight) return setting_.in_flight;
        const double each = static_cast<double>(costs_.blocks * setting_.tokens) * costs_.memory.token_block;
        const double room = 0.95 * setting_.memory - costs_.memory.fixed;
        return std::clamp(static_cast<int64_t>(room / each), stages, 2 * stages - 1);
    }

    void add_cad(const StepPlacement& whole, const SimulatedStep& fixed) {
        const int64_t stages = setting_.parallel.stages;
        const Schedule ticks = make_schedule("same-phase", {.stages = static_cast<int>(stages),
                                                            .micro_batches = setting_.micro_batches,
                                                            .in_flight_cap = in_flight_cap(),
                                                            .costs = {}});
        const StepPlacement halves = place(documents_, static_cast<int>(columns_), 2);
        CadOptions free = setting_.cad;
        free.free_traffic = true;
        const auto add_one = [&](Policy policy, const StepPlacement& placement, const CadOptions& options) {
            SimulatedStep result = simulate_cad_step(placement, ticks, costs_, options);
            const bool as_fixed = fixed.seconds < kMinGain * result.seconds;
            add(policy, stages > 1 ? fmt::format("{} in flight", in_flight_cap()) : "",
                as_fixed ? fixed : std::move(result));
            runs_.back().as_fixed = as_fixed;
        };
        add_one(Policy::kCad, halves, setting_.cad);
        add_one(Policy::kCadNoPingPong, whole, setting_.cad);
        add_one(Policy::kCadFreeTraffic, halves, free);
    }

    const StepDocuments& documents_;
    const PolicySetting& setting_;
    const StepCosts& costs_;
    int64_t columns_;
    Schedule schedule_;
    Documents all_;
    std::vector<PolicyRun> runs_;
};

}  // namespace

std::string_view name_of(Policy policy) {
    switch (policy) {
        case Policy::kFixed:
            return "fixed packing";
        case Policy::kSequenceContext:
            return "fixed + sequence CP";
        case Policy::kDocumentContext:
            return "fixed + document CP";
        case Policy::kWlbLike:
            return "WLB-like";
        case Policy::kPerfectPacking:
            return "perfect packing";
        case Policy::kCad:
            return "CAD";
        case Policy::kCadNoPingPong:
            return "CAD, no ping-pong";
        case Policy::kCadFreeTraffic:
            return "CAD, free traffic";
    }
    throw Error(ExitCode::kInternal, "a policy without a name");
}

bool is_cad(Policy policy) {
    return policy == Policy::kCad || policy == Policy::kCadNoPingPong || policy == Policy::kCadFreeTraffic;
}

std::vector<PolicyRun> simulate_policies(const StepDocuments& documents, const PolicySetting& setting) {
    return Runs(documents, setting).run();
}

}  // namespace plimsoll
