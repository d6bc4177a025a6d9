#include "train/json_reader.h"

#include <cmath>
#include <set>
#include <vector>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int kDepth = 64;  // of nested JSON: nlohmann's dump() recurses

}  // namespace

nlohmann::json JsonReader::parse(std::string_view text, Keys keys) const {
    std::vector<std::set<std::string>> seen;  // by depth
    const auto watch = [&](int depth, json::parse_event_t event, json& value) {
        if (depth > kDepth) fail_input("{}: lists nested more than {} deep", path_, kDepth);
        if (keys == Keys::kAny) return true;
        const auto level = static_cast<size_t>(depth) + 1;
        if (event == json::parse_event_t::object_start) seen.resize(level + 1), seen[level].clear();
        if (event == json::parse_event_t::key && !seen.at(level - 1).insert(value.get<std::string>()).second)
            fail_input("{}: key '{}' twice", path_, brief(value.get<std::string>()));
        return true;
    };
    try {
        return json::parse(text, watch);
    } catch (const json::exception& error) {
        fail_input("{}: not JSON: {}", path_, brief(error.what(), 300));
    }
}

bool JsonReader::has(const json& object, const char* key) {
    const auto found = object.is_object() ? object.find(key) : object.end();
    return found != object.end() && !found->is_null();
}

const nlohmann::json& JsonReader::member(const json& object, const char* key) const {
    const auto found = object.is_object() ? object.find(key) : object.end();
    if (found == object.end()) fail_input("{}: no '{}' where there must be one", path_, key);
    return *found;
}

int64_t JsonReader::integer(const json& object, const char* key, int64_t low, int64_t high) const {
    return integer_value(member(object, key), key, low, high);
}

int64_t JsonReader::integer_value(const json& value, const char* key, int64_t low, int64_t high) const {
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}))
        fail_input("{}: '{}' is no integer that fits", path_, key);
    const auto number = value.get<int64_t>();
    if (number < low || number > high)
        fail_input("{}: '{}' is {}, must lie in {} .. {}", path_, key, number, low, high);
    return number;
}

double JsonReader::number(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_number() || !std::isfinite(value.get<double>()))
        fail_input("{}: '{}' is no finite number", path_, key);
    return value.get<double>();
}

bool JsonReader::boolean(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_boolean()) fail_input("{}: '{}' is neither true nor false", path_, key);
    return value.get<bool>();
}

const std::string& JsonReader::string(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_string()) fail_input("{}: '{}' is no string", path_, key);
    return value.get_ref<const std::string&>();
}

const nlohmann::json& JsonReader::list(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_array()) fail_input("{}: '{}' is no list", path_, key);
    return value;
}

}  // namespace plimsoll
