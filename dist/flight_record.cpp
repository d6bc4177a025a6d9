#include "dist/flight_record.h"

#include <fmt/format.h>

#include <utility>

namespace plimsoll {

int64_t FlightRecord::begin(std::string operation) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    operations_.push_back({std::move(operation), now, now});
    if (operations_.size() > kOperations) operations_.pop_front(), ++first_;
    return first_ + static_cast<int64_t>(operations_.size()) - 1;
}

void FlightRecord::end(int64_t ticket) {
    const std::lock_guard lock(mutex_);
    if (ticket >= first_) operations_[static_cast<size_t>(ticket - first_)].ended = Clock::now();
}

void FlightRecord::on_abort(std::function<void(const std::string&)> tell) {
    const std::lock_guard lock(mutex_);
    tell_ = std::move(tell);
}

void FlightRecord::aborting(const std::string& reason) {
    std::function<void(const std::string&)> tell;
    {
        const std::lock_guard lock(mutex_);
        tell = std::exchange(tell_, {});
    }
    if (tell) tell(reason);
}

std::string FlightRecord::text() const {
    const std::lock_guard lock(mutex_);
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    std::string out;
    for (const Operation& o : operations_) {
        const bool under_way = o.ended == o.begun;
        out += fmt::format("{:12.6f} s  {:<9} {:10.6f} s  {}\n", seconds(o.begun - start_),
                           under_way ? "waits for" : "took", seconds((under_way ? Clock::now() : o.ended) - o.begun),
                           o.name);
    }
    return out;
}

}  // namespace plimsoll
