// By oneDNN's matmul primitive. Primitives are made once per shape and kept.
#include <omp.h>

#include <array>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/gemm/fallback.h"
#include "kernels/cpu/ranges.h"

namespace plimsoll::cpu {
namespace {

// Everything a primitive is made for.
using Key = std::array<int64_t, 14>;

struct KeyHash {
    size_t operator()(const Key& key) const {
        uint64_t hash = 0xcbf29ce484222325;  // FNV-1a by words
        for (const int64_t part : key) hash = (hash ^ static_cast<uint64_t>(part)) * 0x100000001b3;
        return hash ^ (hash >> 32);
    }
};

struct Primitive {
    dnnl::matmul matmul;
    // Without data: every call sets its own. Its C interface takes them as they lie here; the C++ one would copy.
    dnnl::memory a, b, c, scratchpad, bias;
    std::vector<dnnl_exec_arg_t> arguments;
    int64_t scratchpad_bytes;
};

dnnl::engine& engine() {
    static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

dnnl::memory::desc describe(const Matrix& m) {
    using Type = dnnl::memory::data_type;
    return {{m.rows, m.columns}, m.dtype == DType::kBF16 ? Type::bf16 : Type::f32, dnnl::memory::dims{m.row, m.column}};
}

// Null if oneDNN has no such product for this CPU (bf16 without AVX-512, say).
std::unique_ptr<Primitive> make(const Matrix& c, const Matrix& a, const Matrix& b, bool accumulate, bool has_bias) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
        dnnl::post_ops sum;
        sum.append_sum(1.0f);
        attributes.set_post_ops(sum);
    }
    dnnl::memory::desc bias;
    if (has_bias) bias = describe({nullptr, DType::kF32, 1, c.columns, c.columns, 1});
    try {
#if DNNL_VERSION_MAJOR >= 3
        const dnnl::matmul::primitive_desc pd(engine(), describe(a), describe(b), bias, describe(c), attributes);
#else
        const dnnl::matmul::desc op(describe(a), describe(b), bias, describe(c));
        const dnnl::matmul::primitive_desc pd(op, attributes, engine());
#endif
        const auto empty = [](const dnnl::memory::desc& desc) {
            return dnnl::memory(desc, engine(), DNNL_MEMORY_NONE);
        };
        auto made = std::make_unique<Primitive>();
        made->matmul = dnnl::matmul(pd);
        made->a = empty(describe(a)), made->b = empty(describe(b)), made->c = empty(describe(c));
        made->scratchpad = empty(pd.scratchpad_desc());
        made->arguments = {{DNNL_ARG_SRC, made->a.get()},
                           {DNNL_ARG_WEIGHTS, made->b.get()},
                           {DNNL_ARG_DST, made->c.get()},
                           {DNNL_ARG_SCRATCHPAD, made->scratchpad.get()}};
        if (has_bias) made->bias = empty(bias), made->arguments.push_back({DNNL_ARG_BIAS, made->bias.get()});
        made->scratchpad_bytes = static_cast<int64_t>(pd.scratchpad_desc().get_size());
        return made;
    } catch (const dnnl::error&) {
        return nullptr;
    }
}

// oneDNN takes its number of threads from OpenMP when it makes and when it runs a primitive.
class OmpThreads {
  public:
    explicit OmpThreads(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
    ~OmpThreads() { omp_set_num_threads(before_); }
    OmpThreads(const OmpThreads&) = delete;

  private:
    int before_;
};

enum class Outcome { kDone, kUnsupported, kFailed };

// gemm() for fp32 and bf16. c is untouched if oneDNN does not support the product.
Outcome multiply(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, int threads) {
    const OmpThreads limit(threads);
    // Per thread, because arguments and scratchpad are in use until the product is done.
    thread_local std::unordered_map<Key, std::unique_ptr<Primitive>, KeyHash> primitives;
    thread_local dnnl::stream stream(engine());
    const Key key{c.rows,   c.columns,        a.columns,        a.row,      a.column,        b.row,  b.column, c.row,
                  c.column, int64_t(a.dtype), int64_t(c.dtype), accumulate, bias != nullptr, threads};
    auto found = primitives.find(key);
    if (found == primitives.end()) found = primitives.emplace(key, make(c, a, b, accumulate, bias != nullptr)).first;
    Primitive* p = found->second.get();
    if (!p) return Outcome::kUnsupported;
    try {
        p->a.set_data_handle(a.data), p->b.set_data_handle(b.data), p->c.set_data_handle(c.data);
        p->scratchpad.set_data_handle(workspace<struct Scratchpad, char>(p->scratchpad_bytes));
        if (bias) p->bias.set_data_handle(const_cast<void*>(bias));
        const auto count = static_cast<int>(p->arguments.size());
        if (dnnl_primitive_execute(p->matmul.get(), stream.get(), count, p->arguments.data()) != dnnl_success)
            return Outcome::kFailed;
        stream.wait();
    } catch (const dnnl::error&) {
        return Outcome::kFailed;
    }
    return Outcome::kDone;
}

struct Tiles {
    int64_t height, width;  // of one, in elements of c
    int64_t down, across;   // how many
};

// Tiles of c, each for one thread: 256 x 256, where a thread is as fast as on all of c, and halved while there are too
// few for several threads. Sizes of c alone decide, so that bits do not depend on threads.
Tiles tiles_of(int64_t M, int64_t N) {
    constexpr int64_t kLargest = 256, kSmallest = 32, kEnough = 8;
    const auto size = [&](int64_t n) { return std::min(kLargest, round_up(n, kSmallest)); };
    Tiles t{size(M), size(N), 0, 0};
    while (true) {
        t.down = parts(M, t.height), t.across = parts(N, t.width);
        int64_t& longer = t.height > t.width ? t.height : t.width;
        if (t.down * t.across >= kEnough || longer <= kSmallest) return t;
        longer /= 2;
    }
}

// The rows or columns [begin, begin + count) of m.
Matrix some_rows(Matrix m, int64_t begin, int64_t count) {
    return {static_cast<float*>(m.data) + begin * m.row, m.dtype, count, m.columns, m.row, m.column};
}
Matrix some_columns(Matrix m, int64_t begin, int64_t count) {
    return transposed(some_rows(transposed(m), begin, count));
}

// Given several threads, oneDNN shares not only c out among them, but also K (2.6.3: for transposed left operands, for
// rows with gaps, and for all without AVX-512), and sums would depend on their number. So it gets tiles and one thread.
void fp32(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    const Tiles t = tiles_of(c.rows, c.columns);
    const float* start = static_cast<const float*>(bias);
    bool done = true;
#pragma omp parallel for collapse(2) num_threads(exec.threads) schedule(dynamic) reduction(&& : done) \
    if (worth_threads(c.rows * c.columns * a.columns / kProductsPerElement))
    for (int64_t i = 0; i < t.down; ++i) {
        for (int64_t j = 0; j < t.across; ++j) {
            const int64_t m = i * t.height, rows = std::min(t.height, c.rows - m);
            const int64_t n = j * t.width, columns = std::min(t.width, c.columns - n);
            const Outcome outcome = multiply(some_columns(some_rows(c, m, rows), n, columns), some_rows(a, m, rows),
                                             some_columns(b, n, columns), accumulate, start ? start + n : nullptr, 1);
            done = done && outcome == Outcome::kDone;
        }
    }
    check(done, "{} failed in fp32 ({}, {}) x ({}, {})", gemm_library(), a.rows, a.columns, b.rows, b.columns);
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    if (a.dtype == DType::kF64)
        return GemmLoops<double>::run(c, a, b, accumulate, static_cast<const double*>(bias), exec);
    if (a.dtype == DType::kF32) return fp32(c, a, b, accumulate, bias, exec);
    if (gemm_bf16_is_fast()) {
        const Outcome outcome = multiply(c, a, b, accumulate, bias, exec.threads);
        check(outcome != Outcome::kFailed, "{} failed in bf16 ({}, {}) x ({}, {})", gemm_library(), a.rows, a.columns,
              b.rows, b.columns);
        if (outcome == Outcome::kDone) return;
    }
    gemm_bf16_by_fp32(c, a, b, accumulate, bias, exec, fp32);
}

std::string gemm_library() {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

// From what the CPU is, not from a timing: the answer decides what is computed, and must be the same in every run on a
// machine. oneDNN knows the instruction sets (also what the operating system and ONEDNN_MAX_CPU_ISA allow).
// Asked where bf16 products are not our own. AMX multiplies bf16 several times faster than fp32. AVX512_BF16 does twice
// as fast on AMD (measured on Zen 4: 430 against 215 GFLOP/s on 2 cores), but not on Intel without AMX (measured: 214
// against 320).
bool gemm_bf16_is_fast() {
    static const bool fast = [] {
        const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
        const auto has = [isa](dnnl::cpu_isa wanted) { return (isa & unsigned(wanted)) == unsigned(wanted); };
        return has(dnnl::cpu_isa::avx512_core_amx) || (has(dnnl::cpu_isa::avx512_core_bf16) && __builtin_cpu_is("amd"));
    }();
    return fast;
}

}  // namespace plimsoll::cpu
