// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

// What a token is, by the numbers that GGUF gives it (tokenizer.ggml.token_type).
enum class TokenType : int32_t {
    kNormal = 1,       // bytes
    kControl = 3,      // stands for no text: end of text and the like
    kUserDefined = 4,  // a text that is always one token
    kUnused = 5,       // padding of a vocabulary; no tokenizer here has one
};

// A tokenizer as byte-level BPE, which each of them is: for files of other programs.
struct VocabularyTable {
    std::vector<std::string> tokens;  // by id: kNormal in GPT-2's unicode form (data/bpe.h), others as they are
    std::vector<TokenType> types;     // by id
    std::vector<std::string> merges;  // "a b" by rank, in that form; none for "char" and "byte"
    std::string pre;                  // llama.cpp's name of how texts are cut: "gpt-2", "llama-bpe", "qwen2"; "" = not
    int32_t bos = -1, eos = -1;       // -1 = none; bos is eos where the tokenizer has no other
    bool add_bos = false;             // whether a model's input begins with bos
    bool add_prefix_space = false;
    bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
};

// Whether the names of control tokens ("<|endoftext|>") in a text are those tokens. Not in training data and prompts
// of others: whoever writes them could end documents.
enum class SpecialTokens { kAsText, kParse };

// A tokenizer maps bytes to ids in [0, vocab_size) and back. It may have an id for "end of text" (eot), which stands
// before each document in a shard. Control tokens decode to nothing.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    virtual std::string_view kind() const = 0;  // "char", "byte" (legal values of data.tokenizer) or "bpe"
    virtual int64_t vocab_size() const = 0;     // eot included
    virtual int32_t eot_token() const = 0;      // -1 if there is none
    // Appends the ids of `text`; adds no bos. May be called from several threads.
    // Throws Error (78) naming the byte offset of a character outside the vocabulary.
    virtual void encode(std::string_view text, std::vector<int32_t>& ids,
                        SpecialTokens specials = SpecialTokens::kAsText) const = 0;
    // The bytes of one token; empty for control tokens. Throws Error (78) for an id outside the vocabulary.
    virtual std::string_view token_bytes(int32_t id) const = 0;
    // The name of a control token ("<|endoftext|>"); empty for other tokens. Throws Error (78) like token_bytes.
    virtual std::string_view control_text(int32_t id) const = 0;
    // The vocabulary file, as JSON text: equal tokenizers give equal text.
    virtual std::string to_json() const = 0;
    virtual VocabularyTable vocabulary() const = 0;

    std::vector<int32_t> encode(std::string_view text, SpecialTokens specials = SpecialTokens::kAsText) const;
    std::string decode(std::span<const int32_t> ids) const;
    // A short printable name of a token, for tables and axes.
    std::string label(int32_t id) const;
    // FNV-1a of to_json(): what the vocabulary file means, however it is formatted.
    uint64_t content_hash() const;
    // content_hash() as 16 hexadecimal digits: what travels in manifests, checkpoints and exports.
    std::string hash() const;
};

// One id per distinct byte of `text`, in ascending order (nanoGPT's shakespeare_char, for ASCII text).
// Throws Error (78) if the text is empty.
std::unique_ptr<Tokenizer> make_char_tokenizer(std::string_view text, bool with_eot);
// One id per byte value: id = byte, vocab_size 256, or 257 with eot.
std::unique_ptr<Tokenizer> make_byte_tokenizer(bool with_eot);

// Reads one of
//   {"format": "plimsoll-tokenizer", "version": 1, "kind": "char", "eot_token": 65 or null, "bytes": [10, 32, ...]}
//   a Hugging Face tokenizer.json with a byte-level BPE (data/bpe_file.h)
//   GPT-2's vocab.json, with merges.txt beside it
//   a folder that holds tokenizer.json, or else vocab.json
// Throws Error (78) for anything else, and for what a file asks for that is not implemented.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
// The same of a text; `name` stands for the file in messages.
std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view content, const std::string& name);
void save_tokenizer(const Tokenizer& tokenizer, const std::string& path);

// `bytes` for people, as UTF-8: a newline as \n, a blank as U+2423, other unprintable bytes, and those that are no
// UTF-8, as \xNN.
std::string printable(std::string_view bytes);

}  // namespace plimsoll
