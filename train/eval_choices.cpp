// Suite multiple_choice: which of several texts a model finds most likely.
#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "data/file.h"
#include "train/eval.h"
#include "train/generate.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = 256;

struct Question {
    std::string text;
    std::vector<std::string> choices = {};
    size_t answer = 0;
};

// The first of `names` that the line has.
const json* find(const json& line, std::initializer_list<const char*> names) {
    for (const char* name : names)
        if (const auto it = line.find(name); it != line.end()) return &*it;
    return nullptr;
}

Question parse_question(const std::string& text, const std::string& where) {
    const json line = json::parse(text, nullptr, false);
    if (!line.is_object()) fail_input("{}: '{}' is no JSON object", where, for_terminal(brief(text)));
    const json* question = find(line, {"query", "ctx", "question"});
    const json* choices = find(line, {"choices", "endings"});
    const json* answer = find(line, {"answer", "label", "gold"});
    if (!question || !question->is_string()) fail_input("{}: wants a text named query, ctx or question", where);
    if (!choices || !choices->is_array() || choices->size() < 2)
        fail_input("{}: wants a list of at least two texts named choices or endings", where);
    Question q{.text = question->get<std::string>()};
    for (const json& choice : *choices) {
        if (!choice.is_string() || choice.get<std::string>().empty())
            fail_input("{}: choice {} is no text, or an empty one", where, q.choices.size());
        q.choices.push_back(choice.get<std::string>());
    }
    // HellaSwag's file has its labels as text.
    int64_t index = -1;
    if (answer && answer->is_number_integer()) index = answer->get<int64_t>();
    if (answer && answer->is_string() && answer->get<std::string>().size() == 1)
        index = answer->get<std::string>()[0] - '0';
    if (index < 0 || index >= static_cast<int64_t>(q.choices.size()))
        fail_input("{}: wants a number from 0 to {} named answer, label or gold", where, q.choices.size() - 1);
    q.answer = static_cast<size_t>(index);
    return q;
}

std::vector<Question> read_questions(const std::string& path) {
    constexpr int64_t kMost = int64_t{1} << 30;
    const std::string text = read_file(path, "--choices", kMost);
    std::vector<Question> questions;
    int64_t number = 0;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        const std::string line = text.substr(begin, end - begin);
        begin = end + 1, ++number;
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        questions.push_back(parse_question(line, fmt::format("'{}', line {}", path, number)));
    }
    if (questions.empty()) fail_input("--choices '{}' holds no questions", path);
    return questions;
}

// A choice behind its question, with a blank between unless one of them has it.
std::string joined(const Question& q, const std::string& choice) {
    const bool blank = !q.text.empty() && q.text.back() != ' ' && q.text.back() != '\n' && choice.front() != ' ' &&
                       choice.front() != '\n';
    return q.text + (blank ? " " : "") + choice;
}

}  // namespace

json eval_multiple_choice(const EvalContext& context) {
    if (context.options.choices.empty())
        fail_input("--suite multiple_choice wants --choices FILE: JSON lines with query, choices and answer");
    const Tokenizer* tokenizer = context.model.tokenizer();
    if (!tokenizer) return {{"refused", "the model has no tokenizer"}};
    const std::vector<Question> questions = read_questions(context.options.choices);
    const NetworkConfig& network = context.network();
    if (network.attention.prefix > 1)
        return {{"refused",
                 fmt::format("attention.prefix = {}: a choice that begins within the prefix is seen by the question",
                             network.attention.prefix)}};
    const int64_t T = network.model.context;
    const std::vector<int32_t> beginning = prompt_beginning(network, *tokenizer);
    Decoder decoder(network, context.weights.weights(), {.cache = {.tokens = T}, .chunk = std::min(kChunk, T)},
                    context.exec);
    int64_t right = 0, right_by_byte = 0, cut = 0;
    for (const Question& q : questions) {
        double best = -INFINITY, best_by_byte = -INFINITY;
        size_t chosen = 0, chosen_by_byte = 0;
        const std::vector<int32_t> question = tokenizer->encode(q.text);
        for (size_t c = 0; c < q.choices.size(); ++c) {
            const std::vector<int32_t> whole = tokenizer->encode(joined(q, q.choices[c]));
            // Scored: what is not the question's. Its last token may have grown together with the choice's first.
            const auto shared = static_cast<size_t>(
                std::mismatch(question.begin(), question.end(), whole.begin(), whole.end()).first - question.begin());
            std::vector<int32_t> ids = beginning;
            size_t first = ids.size() + std::min(shared, whole.size() - 1);
            ids.insert(ids.end(), whole.begin(), whole.end());
            if (first == 0) first = 1;  // nothing stands before the first token
            // A text longer than the context loses the beginning of its question, not that of a document.
            if (const auto most = static_cast<size_t>(T) + 1; ids.size() > most) {
                const size_t lost = ids.size() - most;
                const auto from = ids.begin() + static_cast<std::ptrdiff_t>(beginning.size());
                ids.erase(from, from + static_cast<std::ptrdiff_t>(lost));
                first = std::max(first > lost ? first - lost : 0, std::max<size_t>(1, beginning.size()));
                ++cut;
            }
            std::vector<int32_t> targets(ids.size() - 1, -1);
            for (size_t i = first; i < ids.size(); ++i) targets[i - 1] = ids[i];
            std::vector<double> nll(targets.size());
            decoder.truncate(0);
            decoder.score(std::span(ids).first(targets.size()), targets, nll);
            double likelihood = 0;
            for (const double loss : nll) likelihood -= loss;
            const double by_byte = likelihood / static_cast<double>(q.choices[c].size());
            if (likelihood > best) best = likelihood, chosen = c;
            if (by_byte > best_by_byte) best_by_byte = by_byte, chosen_by_byte = c;
        }
        right += chosen == q.answer, right_by_byte += chosen_by_byte == q.answer;
    }
    const auto n = static_cast<double>(questions.size());
    const double accuracy = static_cast<double>(right) / n, normalized = static_cast<double>(right_by_byte) / n;
    double chance = 0;
    for (const Question& q : questions) chance += 1 / static_cast<double>(q.choices.size()) / n;
    return {{"questions", questions.size()},
            {"accuracy", accuracy},
            {"accuracy_by_byte", normalized},
            {"chance", chance},
            {"cut", cut},
            {"notes", {fmt::format("{} of the texts were longer than the context and lost their beginning", cut)}},
            {"table",
             {{"columns", {"questions", "accuracy", "per byte of the choice", "chance"}},
              {"rows", {{questions.size(), accuracy, normalized, chance}}}}}};
}

}  // namespace plimsoll
