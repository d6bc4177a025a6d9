// The [data] section of a run's configuration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

// One place samples come from. `kind` is "text" or "shards", `path` a file or a pattern, `key` the configuration key
// that says so, for messages.
struct SourceSpec {
    std::string key = {};
    double weight = 1.0;
    std::string kind = {};
    std::string path = {};
};

struct DataConfig {
    std::string source = "bigram_backcopy";
    std::string text;
    std::string val_text;
    std::string shards;
    std::string val_shards;
    std::vector<std::string> sources;
    double val_fraction = 0.1;
    int64_t val_samples = 512;
    int64_t train_samples = 0;
    std::string sampling = "windows";
    std::string end = "repeat";
    std::string tokenizer = "char";
    std::string tokenizer_file;
    int64_t vocab_size = 0;
    bool document_mask = false;
    int64_t eot_token = -1;
    std::string document_separator;
    std::string documents = "row";
    std::string task = "bb";
    int64_t triggers = 3;
    double delimiter = 0.05;
    bool bos = true;

    // Lists the fields once, for reading, --help and the dump of the resolved configuration:
    // v.field(key, value, doc), v.choice(key, value, {legal values}, doc), v.list(key, value, doc).
    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("source", self.source, {"bigram_backcopy", "text", "shards", "mixture"},
                 "where samples come from; mixture draws from `sources`");
        v.field(
            "text", self.text,
            "path of a text file; for bigram_backcopy the text whose bigrams are counted, empty = tiny Shakespeare, "
            "compiled in");
        v.field("val_text", self.val_text,
                "path of a separate validation text; empty = the last val_fraction of the training data");
        v.field("shards", self.shards,
                "pattern of llm.c .bin token shards, such as 'fineweb/train_*.bin', read in the order of their names");
        v.field("val_shards", self.val_shards,
                "pattern of separate validation shards; empty = the last val_fraction of the training data");
        v.list("sources", self.sources,
               "for mixture: entries 'WEIGHT text|shards PATH', such as '0.7 shards web/*.bin'");
        v.field("val_fraction", self.val_fraction,
                "share of each source's tokens, its last part, kept for validation (0 = none)");
        v.field("val_samples", self.val_samples, "bigram_backcopy: number of validation sequences (0 = none)");
        v.field(
            "train_samples", self.train_samples,
            "bigram_backcopy: number of different training sequences, repeated in one order; 0 = fresh ones without "
            "end");
        v.choice(
            "sampling", self.sampling, {"windows", "random"},
            "how training samples are cut from tokens: windows = without overlap, permuted and shifted each epoch; "
            "random = at random starts");
        v.choice("end", self.end, {"repeat", "stop"},
                 "after the last sample: repeat = another epoch in a new order; stop = end the run (windows only)");
        v.choice("tokenizer", self.tokenizer, {"char", "byte"},
                 "for text: char = one id per distinct byte of all texts; byte = 256 ids");
        v.field("tokenizer_file", self.tokenizer_file,
                "tokenizer.json to use (plimsoll's, or a byte-level BPE of Hugging Face); empty = the one beside the "
                "shards if there is one, else made from the text");
        v.field("vocab_size", self.vocab_size, "number of token ids in the shards; 0 = the tokenizer's");
        v.field("document_mask", self.document_mask,
                "documents packed in one row do not see each other; positions restart in each");
        v.field(
            "eot_token", self.eot_token,
            "id that starts each document (GPT-2: 50256); -1 = the index file beside each shard, else the tokenizer's");
        v.field("document_separator", self.document_separator,
                "for text: documents are what stands between these strings; empty = one document");
        v.choice("documents", self.documents, {"row", "pretrain", "prolong"},
                 "bigram_backcopy: row = each row is a document; else rows are packed with documents (document_mask), "
                 "as long as those of pretraining or long-context data would be if the context were 128 Ki tokens");
        v.choice(
            "task", self.task, {"bb", "backward", "markov", "delimiter"},
            "bigram_backcopy: bb = a trigger demands a copy of the token before it; backward = a successor of that "
            "token; markov = there are no triggers; delimiter = as bb, and <d> renames all characters, once");
        v.field("triggers", self.triggers, "bigram_backcopy: k, how many of the most frequent characters are triggers");
        v.field("delimiter", self.delimiter, "bigram_backcopy, task delimiter: probability of <d> after a non-trigger");
        v.field("bos", self.bos, "bigram_backcopy: sequences begin with <s>");
    }

    // Throws Error (78) naming the key for values that cannot be used together. Opens no file.
    void validate() const;
    // Whether a validation split exists.
    bool has_validation() const;
    // The sources of text or shards to train on, with their weights; empty for bigram_backcopy.
    std::vector<SourceSpec> training_sources() const;
    // The separate validation sources; empty = the last val_fraction of the training sources.
    std::vector<SourceSpec> validation_sources() const;
};

}  // namespace plimsoll
