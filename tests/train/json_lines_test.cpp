#include "train/json_lines.h"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>

#include "train_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

TEST(JsonLines, AreReadPastWhatIsNone) {
    TemporaryFolder folder;
    const std::string path = write_bytes(folder / "lines", "{\"a\":1}\n\nno json\n[1]\n7\n{\"a\":2}\n{\"a\":");
    const std::vector<json> lines = read_json_lines(path);
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[1]["a"], 2);
    EXPECT_EQ(last_json_line(path)["a"], 2);
    EXPECT_TRUE(read_json_lines(folder / "absent").empty());
    EXPECT_TRUE(last_json_line(folder / "absent").is_null());
    for (const char* text : {"", "\n", "\n\n", "{\"a\":", "7\n"})
        EXPECT_TRUE(last_json_line(write_bytes(folder / "odd", text)).is_null()) << text;
    EXPECT_EQ(last_json_line(write_bytes(folder / "one", "{\"a\":3}"))["a"], 3);
}

// Longer than what is read from the end first, and with much behind it that is no object.
TEST(JsonLines, TheLastOneMayBeLongAndFarFromTheEnd) {
    TemporaryFolder folder;
    for (const size_t length : {65'000u, 65'536u, 65'600u, 1'000'000u})
        for (const size_t behind : {0u, 70'000u, 300'000u}) {
            const std::string line = json{{"text", std::string(length, 'x')}}.dump();
            const std::string path =
                write_bytes(folder / "lines", "{\"text\":\"first\"}\n" + line + "\n" + std::string(behind, '\n'));
            EXPECT_EQ(last_json_line(path)["text"].get<std::string>().size(), length) << behind;
        }
}

TEST(JsonLines, AppendingClosesHalfALine) {
    TemporaryFolder folder;
    const std::string path = write_bytes(folder / "lines", "{\"a\":1}\n{\"a\":2");
    append_json_line(path, {{"a", 3}});
    append_json_line(path, {{"a", "not UTF-8: \xff"}});
    EXPECT_EQ(read_json_lines(path).size(), 3u);
    EXPECT_EQ(read_json_lines(path)[1]["a"], 3);
    expect_error(ExitCode::kIo, {"cannot open", "no/folder"}, [&] { append_json_line(folder / "no/folder", {}); });
}

TEST(JsonLines, AFullDiskIsAnErrorAndCostsNoLineBeforeOrAfter) {
    TemporaryFolder folder;
    const std::string path = write_bytes(folder / "lines", "{\"a\":1}\n");
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{.rlim_cur = 12, .rlim_max = before.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    expect_error(ExitCode::kIo, {"cannot append", "lines"}, [&] { append_json_line(path, {{"a", 2}}); });
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    append_json_line(path, {{"a", 3}});
    ASSERT_EQ(read_json_lines(path).size(), 2u);
    EXPECT_EQ(read_json_lines(path)[1]["a"], 3);
}

// Lines of all lengths, by processes at once: each arrives whole, and each process's in its order.
TEST(JsonLines, OfSeveralProcessesDoNotMix) {
    TemporaryFolder folder;
    const std::string path = folder / "lines";
    constexpr int kProcesses = 4, kLines = 100;
    std::vector<pid_t> children;
    for (int p = 0; p < kProcesses; ++p) {
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            for (int i = 0; i < kLines; ++i)
                append_json_line(path,
                                 {{"process", p}, {"line", i}, {"text", std::string(size_t(97 * i % 9000), 'x')}});
            _exit(0);
        }
        children.push_back(child);
    }
    for (const pid_t child : children) {
        int status = 1;
        waitpid(child, &status, 0);
        EXPECT_EQ(status, 0);
    }
    std::map<int, int> next;
    for (const json& line : read_lines(path)) {  // throws for what is no JSON
        const int i = next[line.at("process")]++;
        EXPECT_EQ(line["line"], i);
        EXPECT_EQ(line["text"].get<std::string>().size(), size_t(97 * i % 9000));
    }
    for (int p = 0; p < kProcesses; ++p) EXPECT_EQ(next[p], kLines);
}

}  // namespace
}  // namespace plimsoll
