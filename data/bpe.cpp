#include "data/bpe.h"

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <queue>
#include <string_view>
#include <unordered_map>

#include "data/bpe_file.h"
#include "data/utf8.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Code point of each byte: itself where that is printable Latin-1, else the next one from U+0100 on.
constexpr std::array<char32_t, 256> kCodeOfByte = [] {
    std::array<char32_t, 256> codes{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        codes[byte] = printable ? byte : next++;
    }
    return codes;
}();
constexpr char32_t kCodeEnd = 0x144;

constexpr std::array<int16_t, kCodeEnd> kByteOfCode = [] {
    std::array<int16_t, kCodeEnd> bytes{};
    bytes.fill(-1);
    for (size_t byte = 0; byte < 256; ++byte) bytes[kCodeOfByte[byte]] = static_cast<int16_t>(byte);
    return bytes;
}();

// End-of-text tokens by the names they have in published tokenizers.
constexpr std::array<std::string_view, 5> kEotNames = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]"};

struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

// Pieces met before, with their ids: natural text repeats its words.
using PieceCache = StringMap<std::vector<int32_t>>;
constexpr size_t kCachedPieces = 1 << 17;  // some 20 MB
constexpr size_t kCachedPieceBytes = 64;   // longer ones hardly come again

constexpr uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Added tokens, found leftmost, of those the longest.
class AddedTokenFinder {
  public:
    void add(const AddedToken& token) {
        by_first_byte_[static_cast<unsigned char>(token.text.front())].push_back(&token);
        empty_ = false;
    }
    // After the last add().
    void sort() {
        for (auto& list : by_first_byte_)
            std::sort(list.begin(), list.end(),
                      [](const auto* a, const auto* b) { return a->text.size() > b->text.size(); });
    }
    // The first one in `text` from `offset` on; its place goes to `offset`. Null if there is none.
    const AddedToken* find(std::string_view text, size_t& offset) const {
        for (size_t at = empty_ ? text.size() : offset; at < text.size(); ++at) {
            for (const AddedToken* token : by_first_byte_[static_cast<unsigned char>(text[at])]) {
                if (text.substr(at).starts_with(token->text)) {
                    offset = at;
                    return token;
                }
            }
        }
        return nullptr;
    }

  private:
    std::array<std::vector<const AddedToken*>, 256> by_first_byte_;
    bool empty_ = true;
};

class BpeTokenizer final : public Tokenizer {
  public:
    BpeTokenizer(BpeModel model, const std::string& path) : model_(std::move(model)) {
        types_.assign(model_.tokens.size(), TokenType::kNormal);
        for (const AddedToken& token : model_.added) {
            types_[static_cast<size_t>(token.id)] = token.special ? TokenType::kControl : TokenType::kUserDefined;
            for (const SpecialTokens specials : {SpecialTokens::kAsText, SpecialTokens::kParse}) {
                if (!token.special || specials == SpecialTokens::kParse)
                    finders_[specials == SpecialTokens::kParse][token.normalized].add(token);
            }
        }
        for (auto& pass : finders_)
            for (AddedTokenFinder& finder : pass) finder.sort();
        byte_ids_.fill(-1);
        for (size_t id = 0; id < model_.tokens.size(); ++id) add_token(static_cast<int32_t>(id), path);
        for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
            const BpeMerge& merge = model_.merges[rank];
            if (!ranks_.emplace(pair_key(merge.left, merge.right), static_cast<int32_t>(rank)).second) {
                fail_input("tokenizer file '{}': merge {} '{} {}' stands there twice", path, rank,
                           brief(model_.tokens[static_cast<size_t>(merge.left)]),
                           brief(model_.tokens[static_cast<size_t>(merge.right)]));
            }
        }
        eot_token_ = find_eot();
    }

    std::string_view kind() const override { return "bpe"; }
    int64_t vocab_size() const override { return static_cast<int64_t>(model_.tokens.size()); }
    int32_t eot_token() const override { return eot_token_; }

    void encode(std::string_view text, std::vector<int32_t>& ids, SpecialTokens specials) const override {
        // One cache for all calls; a second thread, rather than wait for the first, uses one of its own.
        PieceCache own;
        const std::unique_lock lock(cache_mutex_, std::try_to_lock);
        PieceCache& cache = lock ? cache_ : own;
        const auto& finders = finders_[specials == SpecialTokens::kParse];
        each_part(finders[false], text, 0, ids, [&](std::string_view part, size_t begin) {
            each_part(finders[true], part, begin, ids,
                      [&](std::string_view rest, size_t at) { encode_part(rest, at, cache, ids); });
        });
    }

    std::string_view token_bytes(int32_t id) const override {
        check_id(id);
        return types_[static_cast<size_t>(id)] == TokenType::kControl ? std::string_view()
                                                                      : bytes_[static_cast<size_t>(id)];
    }

    std::string_view control_text(int32_t id) const override {
        check_id(id);
        return types_[static_cast<size_t>(id)] == TokenType::kControl ? bytes_[static_cast<size_t>(id)]
                                                                      : std::string_view();
    }

    std::string to_json() const override { return bpe_json(model_); }

    VocabularyTable vocabulary() const override {
        VocabularyTable table{.tokens = model_.tokens,
                              .types = types_,
                              .merges = {},
                              .pre = std::string(info_of(model_.split).llama_cpp),
                              .bos = model_.bos_token >= 0 ? model_.bos_token : eot_token_,
                              .eos = eot_token_,
                              .add_bos = model_.bos_token >= 0,
                              .add_prefix_space = model_.add_prefix_space,
                              .ignore_merges = model_.ignore_merges};
        table.merges.reserve(model_.merges.size());
        for (const BpeMerge& merge : model_.merges)
            table.merges.push_back(model_.tokens[static_cast<size_t>(merge.left)] + " " +
                                   model_.tokens[static_cast<size_t>(merge.right)]);
        return table;
    }

  private:
    // A neighbour pair that is a merge, as it was when it was found.
    struct Candidate {
        int32_t rank;
        int32_t place;  // of the left symbol
        int32_t left, right;

        bool operator<(const Candidate& other) const {  // std::priority_queue serves the largest first
            return rank != other.rank ? rank > other.rank : place > other.place;
        }
    };
    struct Symbol {
        int32_t id;  // -1: merged into the one before
        int32_t previous, next;
    };

    void add_token(int32_t id, const std::string& path) {
        std::string bytes = model_.tokens[static_cast<size_t>(id)];
        if (types_[static_cast<size_t>(id)] == TokenType::kNormal) {
            bytes_of_unicode_form(model_.tokens[static_cast<size_t>(id)], bytes);
            const auto [place, fresh] = id_of_.emplace(bytes, id);
            if (!fresh) {
                fail_input("tokenizer file '{}': tokens {} and {} are both '{}'", path, place->second, id,
                           brief(model_.tokens[static_cast<size_t>(id)]));
            }
            if (bytes.size() == 1) byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
        }
        bytes_.push_back(std::move(bytes));
    }

    int32_t find_eot() const {
        int32_t only = -1;
        int specials = 0;
        for (const AddedToken& token : model_.added) {
            if (!token.special) continue;
            ++specials;
            only = token.id;
        }
        for (const std::string_view name : kEotNames) {
            for (const AddedToken& token : model_.added) {
                if (token.special && token.text == name) return token.id;
            }
        }
        return specials == 1 ? only : -1;
    }

    void check_id(int32_t id) const {
        if (id < 0 || id >= vocab_size())
            fail_input("tokenizer 'bpe': id {} is outside its vocabulary of {}", id, vocab_size());
    }

    // Calls encode_rest(part, offset in the whole text) for what lies between added tokens, and appends theirs.
    template <class EncodeRest>
    static void each_part(const AddedTokenFinder& finder, std::string_view text, size_t begin,
                          std::vector<int32_t>& ids, EncodeRest&& encode_rest) {
        size_t done = 0;
        while (done < text.size()) {
            size_t at = done;
            const AddedToken* token = finder.find(text, at);
            const size_t end = token == nullptr ? text.size() : at;
            if (end > done) encode_rest(text.substr(done, end - done), begin + done);
            if (token == nullptr) return;
            ids.push_back(token->id);
            done = end + token->text.size();
        }
    }

    // Encodes text without added tokens; `offset` is where it lies in the whole text, for messages.
    void encode_part(std::string_view text, size_t offset, PieceCache& cache, std::vector<int32_t>& ids) const {
        std::string prefixed;
        if (model_.add_prefix_space && text.front() != ' ') {
            prefixed = " " + std::string(text);
            text = prefixed;
            offset -= 1;  // of the blank; unsigned arithmetic brings the next byte back to where it is
        }
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = piece_end(model_.split, text, begin);
            encode_piece(text.substr(begin, end - begin), offset + begin, cache, ids);
            begin = end;
        }
    }

    void encode_piece(std::string_view piece, size_t offset, PieceCache& cache, std::vector<int32_t>& ids) const {
        if (const auto found = cache.find(piece); found != cache.end()) {
            ids.insert(ids.end(), found->second.begin(), found->second.end());
            return;
        }
        const size_t before = ids.size();
        const auto whole = model_.ignore_merges ? id_of_.find(piece) : id_of_.end();
        if (whole != id_of_.end())
            ids.push_back(whole->second);
        else
            merge_piece(piece, offset, ids);
        if (piece.size() > kCachedPieceBytes) return;
        if (cache.size() >= kCachedPieces) cache.clear();
        cache.emplace(piece, std::vector<int32_t>(ids.begin() + static_cast<int64_t>(before), ids.end()));
    }

    void merge_piece(std::string_view piece, size_t offset, std::vector<int32_t>& ids) const {
        if (piece.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
            fail_input("tokenizer 'bpe': {} bytes at byte {} without a place to cut, wanted less than 2^31",
                       piece.size(), offset);
        std::vector<Symbol> symbols(piece.size());
        for (size_t i = 0; i < piece.size(); ++i) {
            const auto byte = static_cast<unsigned char>(piece[i]);
            const auto at = static_cast<int32_t>(i);
            if (byte_ids_[byte] < 0) {
                fail_input("tokenizer 'bpe': byte \\x{:02x} at byte {} has no token in its vocabulary of {}", byte,
                           offset + i, vocab_size());
            }
            symbols[i] = {byte_ids_[byte], at - 1, i + 1 < piece.size() ? at + 1 : -1};
        }
        std::priority_queue<Candidate> queue;
        const auto consider = [&](int32_t place) {
            if (place < 0 || symbols[static_cast<size_t>(place)].next < 0) return;
            const Symbol& left = symbols[static_cast<size_t>(place)];
            const int32_t right = symbols[static_cast<size_t>(left.next)].id;
            const auto found = ranks_.find(pair_key(left.id, right));
            if (found != ranks_.end()) queue.push({found->second, place, left.id, right});
        };
        for (size_t i = 0; i + 1 < piece.size(); ++i) consider(static_cast<int32_t>(i));
        while (!queue.empty()) {
            const Candidate candidate = queue.top();
            queue.pop();
            Symbol& left = symbols[static_cast<size_t>(candidate.place)];
            // A symbol may have been merged since; a pair that is equal again is the same merge.
            if (left.id != candidate.left || left.next < 0) continue;
            Symbol& right = symbols[static_cast<size_t>(left.next)];
            if (right.id != candidate.right) continue;
            left.id = model_.merges[static_cast<size_t>(candidate.rank)].merged;
            left.next = right.next;
            right.id = -1;
            if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = candidate.place;
            consider(left.previous);
            consider(candidate.place);
        }
        for (int32_t at = piece.empty() ? -1 : 0; at >= 0; at = symbols[static_cast<size_t>(at)].next)
            ids.push_back(symbols[static_cast<size_t>(at)].id);
    }

    BpeModel model_;
    std::vector<TokenType> types_;    // by id
    std::vector<std::string> bytes_;  // by id; the text of an added token
    StringMap<int32_t> id_of_;        // of normal tokens, by their bytes
    std::array<int32_t, 256> byte_ids_{};
    std::unordered_map<uint64_t, int32_t> ranks_;             // by pair_key
    std::array<std::array<AddedTokenFinder, 2>, 2> finders_;  // [special ones too][in the second pass]
    int32_t eot_token_ = -1;
    mutable std::mutex cache_mutex_;
    mutable PieceCache cache_;
};

}  // namespace

std::string unicode_form(std::string_view bytes) {
    std::string form;
    for (const char c : bytes) append_utf8(kCodeOfByte[static_cast<unsigned char>(c)], form);
    return form;
}

bool bytes_of_unicode_form(std::string_view form, std::string& bytes) {
    std::string read;
    for (size_t offset = 0; offset < form.size();) {
        const Utf8Symbol symbol = utf8_symbol(form, offset);
        if (symbol.code >= kCodeEnd || kByteOfCode[symbol.code] < 0) return false;
        read += static_cast<char>(static_cast<unsigned char>(kByteOfCode[symbol.code]));
        offset += symbol.bytes;
    }
    bytes = std::move(read);
    return true;
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeModel model, const std::string& path) {
    return std::make_unique<BpeTokenizer>(std::move(model), path);
}

}  // namespace plimsoll
