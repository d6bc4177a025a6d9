#include "train/profile.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "train/timing.h"

namespace plimsoll {
namespace {

using nlohmann::json;

json event(const std::string& name, int process, double begin, double end) {
    return {{"name", name}, {"ph", "X"},         {"pid", process},
            {"tid", 1},     {"ts", 1e6 * begin}, {"dur", 1e6 * (end - begin)}};
}

json process_name(int process, const char* name) {
    return {{"name", "process_name"}, {"ph", "M"}, {"pid", process}, {"args", {{"name", name}}}};
}

}  // namespace

StepRange parse_step_range(const std::string& text) {
    StepRange range;
    const char *at = text.data(), *end = at + text.size();
    auto read = std::from_chars(at, end, range.first);
    range.last = range.first;
    if (read.ec == std::errc() && read.ptr != end && *read.ptr == ':')
        read = std::from_chars(read.ptr + 1, end, range.last);
    if (read.ec != std::errc() || read.ptr != end || range.first < 1 || range.last < range.first)
        fail_input("--profile '{}': wanted steps A:B with 1 <= A <= B, such as 10:12", text);
    return range;
}

Profile::Profile(const Exec& exec, Work work) : counts_work_(work == Work::kCounted), start_(now_seconds()) {
    if (exec.device != Device::kCuda) return;
    check(!counts_work_, "Profile: work is counted on the CPU only");
    gpu_.emplace(exec);
    gpu_->mark();  // the zero of its time, as start_ is of the host's
}

void Profile::begin(const char* name, int64_t index) {
    const std::optional<size_t> outer = open_.empty() ? std::nullopt : std::optional(open_.back());
    open_.push_back(ranges_.size());
    ranges_.push_back(
        {name, index, now_seconds() - start_, 0, outer, gpu_ ? gpu_->mark() : 0, 0, std::exchange(next_, {})});
}

void Profile::end() {
    check(!open_.empty(), "a range ends that never began");
    Range& range = ranges_[open_.back()];
    open_.pop_back();
    range.gpu_end = gpu_ ? gpu_->mark() : 0;
    range.end = now_seconds() - start_;
}

std::string Profile::chrome_trace() const {
    check(open_.empty(), "{} ranges are still open", open_.size());
    json events = json::array({process_name(1, "host")});
    if (gpu_) events.push_back(process_name(2, "GPU"));
    const std::vector<double> marks = gpu_ ? gpu_->seconds() : std::vector<double>();
    for (const Range& r : ranges_) {
        const std::string name = r.index < 0 ? r.name : fmt::format("{} {}", r.name, r.index);
        events.push_back(event(name, 1, r.begin, r.end));
        if (gpu_) events.push_back(event(name, 2, marks[r.gpu_begin], marks[r.gpu_end]));
    }
    return json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump();
}

std::vector<OpTime> Profile::op_times() const {
    check(open_.empty(), "{} ranges are still open", open_.size());
    const std::vector<double> marks = gpu_ ? gpu_->seconds() : std::vector<double>();
    std::vector<bool> holds_others(ranges_.size());
    std::vector<std::string> paths;
    for (const Range& r : ranges_) {
        if (r.outer) holds_others[*r.outer] = true;
        paths.push_back((r.outer ? paths[*r.outer] + "/" : "") + r.name);
    }
    std::vector<OpTime> times;
    for (size_t i = 0; i < ranges_.size(); ++i) {
        if (holds_others[i]) continue;
        const Range& r = ranges_[i];
        const double seconds = gpu_ ? marks[r.gpu_end] - marks[r.gpu_begin] : r.end - r.begin;
        const auto same = std::ranges::find(times, paths[i], &OpTime::path);
        if (same == times.end())
            times.push_back({paths[i], seconds, 1, r.work});
        else
            same->seconds += seconds, ++same->calls, same->work += r.work;
    }
    return times;
}

}  // namespace plimsoll
