#include <gtest/gtest.h>

#include "support/copy_rects.h"

namespace plimsoll {
namespace {

TEST(CopyRects, CopyWhatTheySayAndNothingElse) {
    for (const int threads : {1, 2, 5}) {
        RectangleField field;
        copy_rects(field.rects(field.from.data(), field.to.data()), {.threads = threads});
        EXPECT_EQ(field.to, field.expected()) << threads << " threads";
    }
}

TEST(CopyRects, NothingIsFine) {
    copy_rects({}, {});
    const CopyRect empty{.width = 0, .height = 5}, flat{.width = 5, .height = 0};
    copy_rects({&empty, 1}, {});
    copy_rects({&flat, 1}, {});
}

TEST(CopyRects, WrongOnesAreRefused) {
    std::vector<char> memory(100);
    const auto refused = [&](CopyRect rect) { EXPECT_THROW(copy_rects({&rect, 1}, {}), Error); };
    refused(
        {.to = memory.data(), .to_pitch = 9, .from = memory.data() + 50, .from_pitch = 10, .width = 10, .height = 2});
    refused(
        {.to = memory.data(), .to_pitch = 10, .from = memory.data() + 50, .from_pitch = 9, .width = 10, .height = 2});
    refused({.to = memory.data(), .from = memory.data() + 50, .width = -1});
    refused({.to = memory.data(), .from = memory.data() + 50, .width = 4, .height = -1});
    refused({.to = nullptr, .from = memory.data() + 50, .width = 4});
}

}  // namespace
}  // namespace plimsoll
