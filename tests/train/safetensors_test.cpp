#include "train/export/safetensors_file.h"

#include "export_support.h"

namespace plimsoll {
namespace {

class SafetensorsTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    std::string path_ = folder_ / "x.safetensors";

    static std::string file_of(const std::string& header, const std::string& data) {
        return raw(uint64_t{header.size()}) + header + data;
    }
    void refuse(const std::string& bytes, std::initializer_list<std::string_view> parts) {
        write_bytes(path_, bytes);
        expect_error(ExitCode::kBadInput, parts, [&] { SafetensorsFile file(path_); });
    }
};

TEST_F(SafetensorsTest, ReadsBackWhatItWrote) {
    write_safetensors(path_,
                      {{"w", {2, 3}, TensorType::kF32}, {"h", {3}, TensorType::kF16}, {"b", {1, 2}, TensorType::kBF16}},
                      {{"format", "pt"}}, [](size_t i) {
                          return i == 0   ? std::vector<float>{1, 2, 3, 4, 5, 6.1f}
                                 : i == 1 ? std::vector<float>{0.5f, -2, 8}
                                          : std::vector<float>{3, -0.25f};
                      });
    const SafetensorsFile file(path_);
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensors().at("w").shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(file.tensors().at("h").dtype, "F16");
    std::vector<float> w(6), h(3), b(2);
    file.read("w", w), file.read("h", h), file.read("b", b);
    EXPECT_EQ(w, (std::vector<float>{1, 2, 3, 4, 5, 6.1f}));
    EXPECT_EQ(h, (std::vector<float>{0.5f, -2, 8}));
    EXPECT_EQ(b, (std::vector<float>{3, -0.25f}));
    const std::string bytes = read_file(path_, "test");
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    EXPECT_EQ(length % 8, 0u);  // so that the data are aligned
}

TEST_F(SafetensorsTest, ReadsWhatOthersWrite) {
    // Scalars, empty tensors, metadata, blanks behind the header, tensors not in the order of their names.
    const std::string header = R"({"__metadata__":{"a":"b"},"z":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                               R"("e":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]},)"
                               R"("a":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}   )";
    write_bytes(path_, file_of(header, raw(1.5) + raw(int64_t{7})));
    const SafetensorsFile file(path_);
    std::vector<float> z(1);
    file.read("z", z);
    EXPECT_EQ(z[0], 1.5f);
    EXPECT_EQ(file.tensors().at("e").elements(), 0);
    expect_error(ExitCode::kBadInput, {"'a' is I64", "BF16"}, [&] { file.read("a", z); });
}

TEST_F(SafetensorsTest, SaysWhatIsWrong) {
    const std::string data(8, '\0');
    const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
        return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
    };
    refuse("", {"0 bytes"});
    refuse(raw(~uint64_t{0}) + "{}", {"its header has 18446744073709551615 bytes"});
    refuse(raw(uint64_t{10}) + "{}", {"its header has 10 bytes"});
    refuse(file_of("[1]", ""), {"no JSON object"});
    refuse(file_of("{", ""), {"not JSON"});
    refuse(file_of(std::string(100'000, '['), ""), {"nested"});
    refuse(file_of(R"({"w":1})", ""), {"no 'dtype'"});
    refuse(file_of(tensor("F32", "[2]", "[0,8]").insert(1, R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"),
                   data),
           {"key 'w' twice"});
    refuse(file_of(tensor("F99", "[2]", "[0,8]"), data), {"unknown dtype 'F99'"});
    refuse(file_of(tensor("F32", "[3]", "[0,8]"), data), {"'w' has 8 bytes", "want 12"});
    refuse(file_of(tensor("F32", "[-2]", "[0,8]"), data), {"'shape' is -2"});
    refuse(file_of(tensor("F32", "[4611686018427387904,4611686018427387904]", "[0,8]"), data), {"'shape'"});
    refuse(file_of(tensor("F32", "[2.5]", "[0,8]"), data), {"no integer"});
    refuse(file_of(tensor("F32", "[2]", "[8,0]"), data), {"data_offsets"});
    refuse(file_of(tensor("F32", "[2]", "[0]"), data), {"1 data_offsets"});
    refuse(file_of(tensor("F32", "[2]", "[0,8]"), data.substr(1)), {"end at byte", "cut off"});
    refuse(file_of(tensor("F32", "[2]", "[0,8]"), data + "x"), {"end at byte"});
    refuse(file_of(tensor("F32", "[2]", "[4,12]"), data + "abcd"), {"'w' begins at byte"});
    refuse(file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                   data),
           {"'b' begins at byte", "ends at"});
}

TEST_F(SafetensorsTest, ChangedBytesNeverDoHarm) {
    write_safetensors(path_, {{"w", {2, 3}, TensorType::kF32}, {"h", {3}, TensorType::kF16}}, {{"format", "pt"}},
                      [](size_t i) { return std::vector<float>(i == 0 ? 6 : 3, 1.0f); });
    const std::string whole = read_file(path_, "test");
    for (size_t size = 0; size < whole.size(); ++size) refuse(whole.substr(0, size), {"x.safetensors"});
    for (size_t at = 0; at < whole.size(); ++at)
        for (const size_t bit : {at % 8, size_t{0}}) {
            std::string bytes = whole;
            bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
            write_bytes(path_, bytes);
            try {
                const SafetensorsFile file(path_);
                for (const auto& [name, tensor] : file.tensors()) {
                    std::vector<float> values(static_cast<size_t>(tensor.elements()));
                    file.read(name, values);
                }
            } catch (const Error& error) {
                EXPECT_EQ(error.code(), ExitCode::kBadInput) << error.what();
            }
        }
}

}  // namespace
}  // namespace plimsoll
