#include "dist/flight_record.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dist/as_ranks.h"
#include "dist/communicator_cases.h"

namespace plimsoll {
namespace {

TEST(FlightRecord, KeepsTheLastOperationsAndWhatTheyWaitFor) {
    FlightRecord record;
    for (int i = 0; i < 100; ++i) {
        const int64_t ticket = record.begin("operation " + std::to_string(i));
        if (i != 98) record.end(ticket);
    }
    record.end(0);  // long forgotten
    const std::string text = record.text();
    EXPECT_EQ(std::ranges::count(text, '\n'), 64);
    EXPECT_EQ(text.find("operation 35\n"), std::string::npos);
    EXPECT_NE(text.find("operation 36\n"), std::string::npos);
    const size_t waiting = text.find("waits for");
    ASSERT_NE(waiting, std::string::npos);
    EXPECT_NE(text.substr(waiting, 60).find("operation 98"), std::string::npos) << text;
    EXPECT_EQ(text.find("waits for", waiting + 1), std::string::npos);
}

// A rank that gives up tells once, with the operation, its group and what went before; groups share the record.
TEST(FlightRecord, ARankThatGivesUpTellsWhatItWaitedFor) {
    std::atomic<int> told = 0;
    as_ranks(3, [&](Communicator& world) {
        world.set_timeout(std::chrono::milliseconds(200));
        Communicator group = world.split(0, world.rank(), "data");
        std::string reason, text;
        world.record().on_abort([&](const std::string& why) { reason += why, text = world.record().text(); });
        group.barrier();
        if (world.rank() == 2) return;
        EXPECT_THROW(group.barrier(), Error);
        if (reason.empty()) return;  // another rank ended this one's wait
        group.abort("again");        // is not told again
        ++told;
        EXPECT_NE(reason.find("control number 2 of group 'data'"), std::string::npos) << reason;
        EXPECT_NE(reason.find("nothing from ranks 2"), std::string::npos) << reason;
        EXPECT_EQ(reason.find("again"), std::string::npos);
        EXPECT_NE(text.find("waits for"), std::string::npos) << text;
    });
    EXPECT_GE(told, 1);
}

}  // namespace
}  // namespace plimsoll
