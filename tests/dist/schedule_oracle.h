// What a schedule does, found by doing it: an interpreter of its lists that knows no rule about orders.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dist/pipeline/schedule.h"

namespace plimsoll {

// Runs all stages with unbuffered messages and counts what comes out. Whether it is training: every micro batch through
// every virtual stage and back once, sums in ascending order, everything that is used was there.
class ScheduleOracle {
  public:
    explicit ScheduleOracle(const Schedule& schedule)
        : schedule_(schedule), at_(schedule.actions.size(), 0), tick_(at_.size(), -1) {}

    bool trains() {
        if (!fields_are_sane() || !ticks_agree()) return false;
        for (bool moved = true; moved && !wrong_;) {
            moved = false;
            for (size_t s = 0; s < at_.size(); ++s) moved = compute(s) || moved;
            for (size_t from = 0; from < at_.size(); ++from)
                for (size_t to = 0; to < at_.size(); ++to) moved = deliver(from, to) || moved;
            for (size_t s = 0; s < at_.size(); ++s) moved = leave_group(s) || moved;
        }
        for (size_t s = 0; s < at_.size(); ++s)
            if (at_[s] < list(s).size()) return false;
        return !wrong_ && sums_are_complete();
    }

  private:
    using Item = std::tuple<int, int64_t>;  // virtual stage, micro batch
    const std::vector<Action>& list(size_t s) const { return schedule_.actions[s]; }
    int last() const { return schedule_.stages * schedule_.chunks - 1; }
    int virtual_stage(size_t s, const Action& a) const { return a.chunk * schedule_.stages + static_cast<int>(s); }
    static bool is_serve(const Action& a) {
        return a.kind == ActionKind::kServeForward || a.kind == ActionKind::kServeBackward;
    }
    static bool is_send(const Action& a) {
        return a.kind == ActionKind::kSendForward || a.kind == ActionKind::kSendBackward;
    }
    static bool is_message(const Action& a) {
        return is_send(a) || a.kind == ActionKind::kReceiveForward || a.kind == ActionKind::kReceiveBackward;
    }
    // What travels, named by the virtual stage that it leaves: (forward, virtual stage, micro batch).
    std::tuple<bool, int, int64_t> message(size_t s, const Action& a) const {
        const int v = virtual_stage(s, a);
        switch (a.kind) {
            case ActionKind::kSendForward:
                return {true, v, a.micro_batch};
            case ActionKind::kReceiveForward:
                return {true, v - 1, a.micro_batch};
            case ActionKind::kSendBackward:
                return {false, v, a.micro_batch};
            default:
                return {false, v + 1, a.micro_batch};
        }
    }
    size_t peer(size_t s, const Action& a) const {
        const auto [forward, from, m] = message(s, a);
        const int to = forward ? from + 1 : from - 1;
        return static_cast<size_t>((is_send(a) ? to : from) % schedule_.stages);
    }

    bool fields_are_sane() const {
        for (size_t s = 0; s < at_.size(); ++s)
            for (const Action& a : list(s)) {
                if (static_cast<int>(a.kind) > 8 || a.chunk < 0 || a.chunk >= schedule_.chunks) return false;
                if (is_serve(a) ? a.micro_batch != -1 : a.micro_batch < 0 || a.micro_batch >= schedule_.micro_batches)
                    return false;
                if (!is_message(a)) continue;
                const auto [forward, from, m] = message(s, a);
                const int to = forward ? from + 1 : from - 1;
                if (std::min(from, to) < 0 || std::max(from, to) > last() || schedule_.stages == 1) return false;
            }
        return true;
    }

    // The work of each tick, as a word per stage: "F", "f" (serve), "BW" or "b".
    bool ticks_agree() const {
        bool any = false;
        for (size_t s = 0; s < at_.size(); ++s)
            for (const Action& a : list(s)) any = any || a.tick != -1 || is_serve(a);
        if (!any) return true;
        std::string phases;
        for (size_t s = 0; s < at_.size(); ++s) {
            std::map<int64_t, std::string> words;
            std::map<int64_t, std::set<int64_t>> micro_batches;
            int64_t before = 0;
            for (const Action& a : list(s)) {
                if (is_message(a)) {
                    if (a.tick != -1) return false;
                    continue;
                }
                if (a.tick < before) return false;
                before = a.tick;
                words[a.tick] += "FBW....fb"[static_cast<size_t>(a.kind)];
                micro_batches[a.tick].insert(a.micro_batch);
            }
            std::string mine;
            for (const auto& [tick, word] : words) {
                if (tick != static_cast<int64_t>(mine.size()) || micro_batches[tick].size() != 1) return false;
                if (word != "F" && word != "f" && word != "BW" && word != "b") return false;
                mine += word == "F" || word == "f" ? 'f' : 'b';
            }
            if (s == 0) phases = mine;
            if (mine != phases) return false;
        }
        return true;
    }

    bool compute(size_t s) {
        if (at_[s] == list(s).size()) return false;
        const Action& a = list(s)[at_[s]];
        if (is_message(a)) return false;
        for (size_t other = 0; other < at_.size(); ++other)  // a tick is entered together
            if (tick_[other] < a.tick && at_[other] < list(other).size() && list(other)[at_[other]].tick < a.tick)
                return false;
        tick_[s] = a.tick;
        ++at_[s];
        if (is_serve(a)) return true;
        const int v = virtual_stage(s, a);
        const Item item{v, a.micro_batch};
        const bool alone = schedule_.stages == 1;
        if (a.kind == ActionKind::kForward) {
            const bool has_input =
                v == 0 || (alone ? forward_.contains({v - 1, a.micro_batch}) : inputs_.contains(item));
            wrong_ = wrong_ || !has_input || !forward_.insert(item).second;
        } else if (a.kind == ActionKind::kBackward) {
            const bool has_gradient =
                v == last() || (alone ? backward_.contains({v + 1, a.micro_batch}) : gradients_.contains(item));
            wrong_ = wrong_ || !has_gradient || !forward_.contains(item) || !backward_.insert(item).second;
            input_sums_[v].push_back(a.micro_batch);
        } else {
            wrong_ = wrong_ || !backward_.contains(item);
            weight_sums_[v].push_back(a.micro_batch);
        }
        return true;
    }

    // Messages of the group a stage stands at, that were not delivered yet.
    std::vector<size_t> open(size_t s, size_t other, bool sends) const {
        std::vector<size_t> found;
        for (size_t i = at_[s]; i < list(s).size() && is_message(list(s)[i]); ++i)
            if (!delivered_.contains({s, i}) && is_send(list(s)[i]) == sends && peer(s, list(s)[i]) == other)
                found.push_back(i);
        return found;
    }

    bool deliver(size_t from, size_t to) {
        const std::vector<size_t> sends = open(from, to, true), receives = open(to, from, false);
        if (sends.empty() || receives.empty()) return false;
        const Action &out = list(from)[sends[0]], &in = list(to)[receives[0]];
        delivered_.insert({from, sends[0]}), delivered_.insert({to, receives[0]});
        const int v = virtual_stage(from, out), target = virtual_stage(to, in);
        const bool forward = out.kind == ActionKind::kSendForward;
        const auto& made = forward ? forward_ : backward_;
        wrong_ = wrong_ || message(from, out) != message(to, in) || !made.contains({v, out.micro_batch}) ||
                 !(forward ? inputs_ : gradients_).insert({target, in.micro_batch}).second;
        return true;
    }

    bool leave_group(size_t s) {
        size_t end = at_[s];
        for (; end < list(s).size() && is_message(list(s)[end]); ++end)
            if (!delivered_.contains({s, end})) return false;
        const bool moved = end > at_[s];
        at_[s] = end;
        return moved;
    }

    bool sums_are_complete() {
        std::vector<int64_t> all;
        for (int64_t m = 0; m < schedule_.micro_batches; ++m) all.push_back(m);
        for (int v = 0; v <= last(); ++v)
            if (input_sums_[v] != all || weight_sums_[v] != all) return false;
        return true;
    }

    const Schedule& schedule_;
    std::vector<size_t> at_;
    std::vector<int64_t> tick_;  // by stage: the last one it entered
    std::set<std::pair<size_t, size_t>> delivered_;
    std::set<Item> forward_, backward_, inputs_, gradients_;
    std::map<int, std::vector<int64_t>> input_sums_, weight_sums_;
    bool wrong_ = false;
};

}  // namespace plimsoll
