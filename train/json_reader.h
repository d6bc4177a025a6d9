// JSON that may say anything: values of the type that is wanted, or an Error (78) naming the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace plimsoll {

class JsonReader {
  public:
    using json = nlohmann::json;
    // Whether an object may have a key twice, the last counting (JSON leaves it open).
    enum class Keys : uint8_t { kAny, kUnique };

    explicit JsonReader(std::string path) : path_(std::move(path)) {}
    const std::string& path() const { return path_; }

    json parse(std::string_view text, Keys keys = Keys::kAny) const;
    // Whether the key is there, and not null.
    static bool has(const json& object, const char* key);
    const json& member(const json& object, const char* key) const;
    int64_t integer(const json& object, const char* key, int64_t low, int64_t high = INT64_MAX) const;
    // `key` names the value in messages.
    int64_t integer_value(const json& value, const char* key, int64_t low, int64_t high) const;
    double number(const json& object, const char* key) const;  // finite
    bool boolean(const json& object, const char* key) const;
    const std::string& string(const json& object, const char* key) const;
    const json& list(const json& object, const char* key) const;

  private:
    std::string path_;
};

}  // namespace plimsoll
