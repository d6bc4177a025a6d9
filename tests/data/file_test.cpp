#include "data/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "data_test_support.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Opening a pipe to read waits for its writer: without care this test never ends.
TEST(File, APipeIsRefusedAtOnce) {
    const TemporaryFolder folder;
    ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
    expect_error(ExitCode::kBadInput, {"shard '", "pipe", "not a regular file"},
                 [&] { MappedFile(folder / "pipe", "shard"); });
    expect_error(ExitCode::kBadInput, {"not a regular file"}, [&] { read_file(folder / "pipe", "shard"); });
}

TEST(File, AFileAboveItsLimitIsNotRead) {
    const TemporaryFolder folder;
    const std::string path = write_bytes(folder / "five", "12345");
    EXPECT_EQ(read_file(path, "text", 5), "12345");
    expect_error(ExitCode::kBadInput, {"text '", "five", "5 bytes", "at most 4"}, [&] { read_file(path, "text", 4); });
}

TEST(Error, BriefShowsTheBeginningOnOneLine) {
    EXPECT_EQ(brief("abc", 3), "abc");
    EXPECT_EQ(brief("abcd", 3), "abc...");
    EXPECT_EQ(brief("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
    EXPECT_EQ(brief("\u00e9\u00e9", 3), "\u00e9...");  // two bytes each: no half character
    EXPECT_EQ(brief("\u00e9\u00e9", 4), "\u00e9\u00e9");
    EXPECT_EQ(brief("\x80\x80\x80", 2), "...");  // no character begins
    EXPECT_EQ(brief(""), "");
}

}  // namespace
}  // namespace plimsoll
