// Stock llama.cpp as the other side of a comparison. Every call is a process of its own: it aborts where an assertion
// of ggml does.
//
//   llama_driver logits MODEL IDS OUT SPLIT   logits of ids (text file) as raw fp32 (ids, vocabulary): the first SPLIT
//                                             ids as one batch, the others one by one
//   llama_driver tokenize MODEL TEXT          ids of a text file, with what llama.cpp puts before a text
//   llama_driver quantize MODEL OUT           a q8_0 copy, by llama.cpp's own quantisation
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "llama_driver: %s\n", what);
    std::exit(1);
}

llama_model* load(const char* path) {
    llama_model_params params = llama_model_default_params();
    llama_model* model = llama_model_load_from_file(path, params);
    if (!model) fail("the model does not load");
    return model;
}

// KV in f32 and no flash attention, so that only the order of sums differs.
llama_context* open_context(llama_model* model, uint32_t tokens) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = tokens < 256 ? 256 : tokens;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.n_threads = params.n_threads_batch = 2;
    llama_context* context = llama_init_from_model(model, params);
    if (!context) fail("no context");
    return context;
}

// Logits of ids first .. first + count - 1, appended.
void decode(llama_context* context, const std::vector<llama_token>& ids, int first, int count, int vocab,
            std::vector<float>& logits) {
    llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; ++i) {
        batch.token[i] = ids[static_cast<size_t>(first + i)];
        batch.pos[i] = first + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) fail("decoding failed");
    for (int i = 0; i < count; ++i) {
        const float* row = llama_get_logits_ith(context, i);
        logits.insert(logits.end(), row, row + vocab);
    }
    llama_batch_free(batch);
}

void write_logits(const char* path, const char* ids_path, const char* out, int split) {
    llama_model* model = load(path);
    std::ifstream file(ids_path);
    const std::vector<llama_token> ids{std::istream_iterator<llama_token>(file), {}};
    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model)), count = static_cast<int>(ids.size());
    llama_context* context = open_context(model, static_cast<uint32_t>(count));
    std::vector<float> logits;
    decode(context, ids, 0, split, vocab, logits);
    for (int i = split; i < count; ++i) decode(context, ids, i, 1, vocab, logits);
    std::ofstream(out, std::ios::binary)
        .write(reinterpret_cast<const char*>(logits.data()),
               static_cast<std::streamsize>(logits.size() * sizeof(float)));
    std::printf("%d %d\n", count, vocab);
    llama_free(context);
    llama_model_free(model);
}

void tokenize(const char* path, const char* text_path) {
    llama_model* model = load(path);
    std::ifstream file(text_path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::vector<llama_token> ids(text.size() + 8);
    const int count = llama_tokenize(llama_model_get_vocab(model), text.data(), static_cast<int32_t>(text.size()),
                                     ids.data(), static_cast<int32_t>(ids.size()), true, false);
    if (count < 0) fail("the text has more tokens than bytes");
    for (int i = 0; i < count; ++i) std::printf("%d ", ids[static_cast<size_t>(i)]);
    std::printf("\n");
    llama_model_free(model);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) fail("usage: llama_driver logits|tokenize|quantize MODEL ...");
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level >= GGML_LOG_LEVEL_WARN) std::fputs(text, stderr);
        },
        nullptr);
    llama_backend_init();
    const std::string what = arguments[1];
    if (what == "logits" && count == 6)
        write_logits(arguments[2], arguments[3], arguments[4], std::atoi(arguments[5]));
    else if (what == "tokenize" && count == 4)
        tokenize(arguments[2], arguments[3]);
    else if (what == "quantize" && count == 4) {
        llama_model_quantize_params params = llama_model_quantize_default_params();
        params.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
        params.nthread = 2;
        if (llama_model_quantize(arguments[2], arguments[3], &params) != 0) fail("quantising failed");
    } else
        fail("usage: llama_driver logits|tokenize|quantize MODEL ...");
    return 0;
}
