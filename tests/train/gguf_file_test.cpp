#include "train/export/gguf_file.h"

#include "export_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

class GgufFileTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    std::string path_ = folder_ / "x.gguf";

    GgufMetadata every_type() const {
        GgufMetadata m;
        m.add("general.architecture", std::string("test"));
        m.add("a", uint8_t{200}), m.add("b", int8_t{-3}), m.add("c", uint16_t{60000}), m.add("d", int16_t{-30000});
        m.add("e", uint32_t{4000000000u}), m.add("f", int32_t{-5}), m.add("g", 1.5f), m.add("h", true);
        m.add("i", std::string("text\0with zero", 14)), m.add("j", uint64_t{1} << 60), m.add("k", int64_t{-1} << 40);
        m.add("l", 0.1), m.add("m", std::vector<std::string>{"one", "", "three"}),
            m.add("n", std::vector<std::string>{});
        m.add("o", std::vector<bool>{true, false, true}), m.add("p", std::vector<int32_t>{1, -2, 3});
        m.add("q", std::vector<float>{0.5f}), m.add("r", std::vector<int64_t>{1, 2}),
            m.add("s", std::vector<double>{1e300});
        return m;
    }
    void write(const GgufMetadata& metadata) {
        write_gguf(path_, metadata,
                   {{"first", {2, 3}, TensorType::kF32},
                    {"second", {5}, TensorType::kF16},
                    {"third", {1, 32}, TensorType::kQ8_0}},
                   [](size_t i) {
                       std::vector<float> values(i == 0 ? 6 : i == 1 ? 5 : 32);
                       for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<float>(10 * i + j);
                       return values;
                   });
    }
    std::string content() const { return read_file(path_, "test"); }
    // The file with these bytes is refused, saying so.
    void refuse(const std::string& bytes, std::initializer_list<std::string_view> parts) {
        const std::string hostile = write_bytes(folder_ / "hostile.gguf", bytes);
        expect_error(ExitCode::kBadInput, parts, [&] { GgufFile file(hostile); });
    }
};

TEST_F(GgufFileTest, ReadsBackWhatItWrote) {
    const GgufMetadata metadata = every_type();
    write(metadata);
    const GgufFile file(path_);
    EXPECT_EQ(file.metadata().entries(), metadata.entries());
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.find("first")->shape, (std::vector<int64_t>{2, 3}));
    std::vector<float> values(6), half(5), quantised(32);
    file.read(*file.find("first"), values);
    EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
    file.read(*file.find("second"), half);
    EXPECT_EQ(half[4], 14.0f);
    file.read(*file.find("third"), quantised);
    EXPECT_NEAR(quantised[31], 51.0f, 51.0 / 254);
    EXPECT_EQ(file.find("fourth"), nullptr);
    EXPECT_EQ(file.get<double>("l"), 0.1);
    expect_error(ExitCode::kBadInput, {"no key 'zzz'"}, [&] { file.get<bool>("zzz"); });
    expect_error(ExitCode::kBadInput, {"key 'a' is uint8, wanted uint32"}, [&] { file.get<uint32_t>("a"); });
    EXPECT_TRUE(is_gguf(path_));
    EXPECT_FALSE(is_gguf(write_bytes(folder_ / "short", "GG")));
}

// Byte for byte what the format says.
TEST_F(GgufFileTest, HasTheFormatsBytes) {
    GgufMetadata metadata;
    metadata.add("k", uint32_t{7});
    metadata.add("s", std::vector<std::string>{"ab"});
    write_gguf(path_, metadata, {{"w", {2, 3}, TensorType::kF32}, {"v", {1}, TensorType::kF32}},
               [](size_t i) { return i == 0 ? std::vector<float>{1, 2, 3, 4, 5, 6} : std::vector<float>{7}; });
    std::string wanted = "GGUF" + raw(uint32_t{3}) + raw(uint64_t{2}) + raw(uint64_t{2});
    wanted += raw(uint64_t{1}) + "k" + raw(uint32_t{4}) + raw(uint32_t{7});
    wanted += raw(uint64_t{1}) + "s" + raw(uint32_t{9}) + raw(uint32_t{8}) + raw(uint64_t{1}) + raw(uint64_t{2}) + "ab";
    wanted += raw(uint64_t{1}) + "w" + raw(uint32_t{2}) + raw(uint64_t{3}) + raw(uint64_t{2}) + raw(uint32_t{0}) +
              raw(uint64_t{0});
    wanted += raw(uint64_t{1}) + "v" + raw(uint32_t{1}) + raw(uint64_t{1}) + raw(uint32_t{0}) + raw(uint64_t{32});
    wanted.resize((wanted.size() + 31) / 32 * 32, '\0');
    for (int i = 1; i <= 6; ++i) wanted += raw(static_cast<float>(i));
    wanted.resize((wanted.size() + 31) / 32 * 32, '\0');
    wanted += raw(7.0f);
    wanted.resize((wanted.size() + 31) / 32 * 32, '\0');
    EXPECT_EQ(content(), wanted);
}

TEST_F(GgufFileTest, AFileThatEndsEarlyIsRefused) {
    write(every_type());
    const std::string whole = content();
    const size_t padding = 64 - 34;  // behind the last tensor; some writers leave it out
    for (size_t size = 0; size < whole.size() - padding; ++size) refuse(whole.substr(0, size), {"hostile.gguf"});
    refuse(whole + '\0', {"1 bytes after the last tensor"});
}

// Whatever byte changes, the file is read or refused, and nothing else happens.
TEST_F(GgufFileTest, ChangedBytesNeverDoHarm) {
    write(every_type());
    const std::string whole = content();
    int refused = 0;
    for (size_t at = 0; at < whole.size(); ++at)
        for (const size_t bit : {at % 8, size_t{0}}) {
            std::string bytes = whole;
            bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
            const std::string hostile = write_bytes(folder_ / "hostile.gguf", bytes);
            try {
                const GgufFile file(hostile);
                for (const GgufTensor& t : file.tensors()) {
                    std::vector<float> values(static_cast<size_t>(t.elements()));
                    if (t.type == 0 || t.type == 1 || t.type == 8) file.read(t, values);
                }
            } catch (const Error& error) {
                EXPECT_EQ(error.code(), ExitCode::kBadInput) << error.what();
                ++refused;
            }
        }
    EXPECT_GT(refused, 300);
}

TEST_F(GgufFileTest, SaysWhatIsWrong) {
    GgufMetadata metadata;
    metadata.add("key1", uint32_t{7}), metadata.add("key2", true), metadata.add("key3", std::string("xyz"));
    write_gguf(path_, metadata, {{"w1", {2, 3}, TensorType::kF32}, {"w2", {4}, TensorType::kF32}},
               [](size_t i) { return std::vector<float>(i == 0 ? 6 : 4); });
    const std::string whole = content();
    refuse(with(whole, "GGUF", "GGML"), {"does not begin with \"GGUF\""});
    refuse(with(whole, raw(uint32_t{3}), raw(uint32_t{2})), {"version 2, wanted 3"});
    refuse(with(whole, raw(uint32_t{3}), raw(uint32_t{3u << 24})), {"big-endian"});
    refuse(with(whole, raw(uint64_t{2}), raw(~uint64_t{0})), {"number of tensors"});
    refuse(with(whole, raw(uint64_t{3}), raw(uint64_t{1} << 62)), {"number of keys"});
    refuse(with(whole, "key2", "key1"), {"key 'key1' twice"});
    refuse(with(whole, "w2", "w1"), {"tensor 'w1' twice"});
    refuse(with(whole, "key2" + raw(uint32_t{7}) + '\1', "key2" + raw(uint32_t{7}) + '\2'), {"a bool of value 2"});
    refuse(with(whole, "key2" + raw(uint32_t{7}), "key2" + raw(uint32_t{13})), {"type 13"});
    refuse(with(whole, raw(uint64_t{3}) + "xyz", raw(~uint64_t{0}) + "xyz"), {"a string says"});
    const std::string w1 = "w1" + raw(uint32_t{2}), w2 = "w2" + raw(uint32_t{1}) + raw(uint64_t{4});
    refuse(with(whole, w1, "w1" + raw(uint32_t{5})), {"5 dimensions"});
    refuse(with(whole, w1, "w1" + raw(uint32_t{0})), {"0 dimensions"});
    refuse(with(whole, w1 + raw(uint64_t{3}), w1 + raw(uint64_t{0})), {"size 0"});
    refuse(with(whole, w1 + raw(uint64_t{3}), w1 + raw(uint64_t{1} << 60)), {"'w1': size"});
    refuse(with(whole, w2 + raw(uint32_t{0}), w2 + raw(uint32_t{99})), {"type 99"});
    refuse(with(whole, w2 + raw(uint32_t{0}), w2 + raw(uint32_t{8})), {"rows of 4", "multiple of 32"});
    refuse(with(whole, w2 + raw(uint32_t{0}) + raw(uint64_t{32}), w2 + raw(uint32_t{0}) + raw(uint64_t{0})),
           {"'w2'", "byte 0 of the data", "ends at 32"});
    refuse(with(whole, w2 + raw(uint32_t{0}) + raw(uint64_t{32}), w2 + raw(uint32_t{0}) + raw(~uint64_t{0})),
           {"'w2' at byte"});
    refuse(with(whole, w2, "w2" + raw(uint32_t{1}) + raw(uint64_t{4000})), {"'w2' ends at byte", "cut off"});
    expect_error(ExitCode::kBadInput, {"cannot be opened"}, [&] { GgufFile file(folder_ / "none"); });
    // A list that says it has more entries than the file has bytes.
    GgufMetadata list;
    list.add("list", std::vector<std::string>{"a"});
    write_gguf(path_, list, {}, [](size_t) { return std::vector<float>{}; });
    refuse(with(content(), raw(uint32_t{8}) + raw(uint64_t{1}), raw(uint32_t{8}) + raw(uint64_t{1} << 40)),
           {"a list says"});
    refuse(with(content(), raw(uint32_t{9}) + raw(uint32_t{8}), raw(uint32_t{9}) + raw(uint32_t{9})), {"type 9"});
}

// What stops a write half way leaves what was there, and nothing beside it.
TEST_F(GgufFileTest, HalfAFileNeverHasTheName) {
    write(every_type());
    const std::string before = content();
    EXPECT_THROW(write_gguf(path_, {}, {{"w", {4}, TensorType::kF32}, {"v", {4}, TensorType::kF32}},
                            [](size_t i) {
                                if (i == 1) fail_input("stopped");
                                return std::vector<float>(4);
                            }),
                 Error);
    EXPECT_EQ(content(), before);
    int files = 0;
    for (const auto& entry : fs::directory_iterator(folder_ / ".")) files += entry.is_regular_file();
    EXPECT_EQ(files, 1);
    expect_error(ExitCode::kIo, {"no_folder"}, [&] {
        write_gguf(folder_ / "no_folder/x.gguf", {}, {}, [](size_t) { return std::vector<float>{}; });
    });
}

}  // namespace
}  // namespace plimsoll
