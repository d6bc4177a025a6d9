#include "train/tokenize.h"

#include <charconv>
#include <functional>
#include <istream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "data/tokenizer.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

using nlohmann::json;

std::string read_all(std::istream& in) {
    std::string text{std::istreambuf_iterator<char>(in), {}};
    if (in.bad()) fail_io("standard input cannot be read");
    return text;
}

void write(std::ostream& out, const std::string& text) {
    if (!out.write(text.data(), static_cast<std::streamsize>(text.size())))
        fail_io("standard output cannot be written");
}

// Converts each line, a JSON value, to another; an error names the line.
void each_line(std::istream& in, std::ostream& out, const std::function<json(const json&)>& convert) {
    std::string line;
    for (int64_t number = 1; std::getline(in, line); ++number) {
        try {
            write(out, convert(json::parse(line)).dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
        } catch (const json::exception& error) {
            fail_input("line {} of the input: {}; wanted JSON, a string to encode or a list of ids to decode", number,
                       brief(error.what(), 200));
        } catch (const Error& error) {
            throw Error(error.code(), fmt::format("line {} of the input: {}", number, error.what()));
        }
    }
    if (in.bad()) fail_io("standard input cannot be read");
}

std::vector<int32_t> parse_ids(std::string_view text) {
    constexpr std::string_view kBetween = " \t\r\n,";
    std::vector<int32_t> ids;
    for (size_t begin = text.find_first_not_of(kBetween); begin != std::string_view::npos;
         begin = text.find_first_not_of(kBetween, begin)) {
        const std::string_view word = text.substr(begin, text.find_first_of(kBetween, begin) - begin);
        int32_t id = 0;
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
        if (error != std::errc() || end != word.data() + word.size())
            fail_input("token {} of the input is '{}', wanted an id in decimal", ids.size(), brief(word));
        ids.push_back(id);
        begin += word.size();
    }
    return ids;
}

std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool specials) {
    std::string text;
    for (const int32_t id : ids) {
        text += tokenizer.token_bytes(id);
        if (specials) text += tokenizer.control_text(id);
    }
    return text;
}

SpecialTokens specials_of(const TokenizeOptions& options) {
    return options.specials ? SpecialTokens::kParse : SpecialTokens::kAsText;
}

}  // namespace

void encode_text(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
    const auto tokenizer = load_tokenizer(options.tokenizer);
    if (options.json_lines) {
        return each_line(in, out, [&](const json& text) {
            return json(tokenizer->encode(text.get_ref<const std::string&>(), specials_of(options)));
        });
    }
    std::string text;
    for (const int32_t id : tokenizer->encode(read_all(in), specials_of(options)))
        text += fmt::format("{}{}", text.empty() ? "" : " ", id);
    write(out, text + "\n");
}

void decode_ids(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
    const auto tokenizer = load_tokenizer(options.tokenizer);
    if (options.json_lines) {
        return each_line(in, out, [&](const json& list) {
            std::vector<int32_t> ids;
            for (const json& id : list.get_ref<const json::array_t&>()) {
                const bool whole = id.is_number_integer() && id >= 0 && id <= std::numeric_limits<int32_t>::max();
                ids.push_back(whole ? id.get<int32_t>() : -1);  // which no vocabulary has
            }
            return json(decode(*tokenizer, ids, options.specials));
        });
    }
    write(out, decode(*tokenizer, parse_ids(read_all(in)), options.specials));
}

}  // namespace plimsoll
