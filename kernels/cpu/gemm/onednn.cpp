// By oneDNN's matmul primitive. Primitives are made once per shape and kept.
#include <omp.h>

#include <array>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "kernels/cpu/gemm/fallback.h"

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
    std::unordered_map<int, dnnl::memory> arguments;  // without data: every call sets its own
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
        const auto empty = [](const dnnl::memory::desc& desc) { return dnnl::memory(desc, engine(), DNNL_MEMORY_NONE); };
        auto made = std::make_unique<Primitive>();
        made->matmul = dnnl::matmul(pd);
        made->arguments = {{DNNL_ARG_SRC, empty(describe(a))},
                           {DNNL_ARG_WEIGHTS, empty(describe(b))},
                           {DNNL_ARG_DST, empty(describe(c))},
                           {DNNL_ARG_SCRATCHPAD, empty(pd.scratchpad_desc())}};
        if (has_bias) made->arguments.emplace(DNNL_ARG_BIAS, empty(bias));
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

// gemm() for fp32 and bf16. False if oneDNN cannot do it; c is untouched then.
bool multiply(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    const OmpThreads threads(exec.threads);
    // Per thread, because arguments and scratchpad are in use until the product is done.
    thread_local std::unordered_map<Key, std::unique_ptr<Primitive>, KeyHash> primitives;
    thread_local dnnl::stream stream(engine());
    const Key key{c.rows, c.columns, a.columns,  a.row, a.column, b.row, b.column, c.row, c.column, int64_t(a.dtype),
                  int64_t(c.dtype), accumulate, bias != nullptr, exec.threads};
    try {
        auto found = primitives.find(key);
        if (found == primitives.end()) found = primitives.emplace(key, make(c, a, b, accumulate, bias != nullptr)).first;
        Primitive* p = found->second.get();
        if (!p) return false;
        p->arguments.at(DNNL_ARG_SRC).set_data_handle(a.data);
        p->arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(b.data);
        p->arguments.at(DNNL_ARG_DST).set_data_handle(c.data);
        p->arguments.at(DNNL_ARG_SCRATCHPAD).set_data_handle(workspace<struct Scratchpad, char>(p->scratchpad_bytes));
        if (bias) p->arguments.at(DNNL_ARG_BIAS).set_data_handle(const_cast<void*>(bias));
        p->matmul.execute(stream, p->arguments);
        stream.wait();
    } catch (const dnnl::error& error) {
        check(false, "oneDNN: ({}, {}) x ({}, {}) in {}: {}", a.rows, a.columns, b.rows, b.columns, name_of(a.dtype),
              error.what());
    }
    return true;
}

// Rows of a transposed left operand at once. With 2048 and more oneDNN shares K out among threads (2.6.3, measured with
// 2 to 64), and fp32 sums would depend on their number.
constexpr int64_t kTransposedDepth = 1024;

void fp32(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    const int64_t K = a.columns, depth = a.column == 1 ? K : kTransposedDepth;
    for (int64_t k = 0; k < K; k += depth) {
        const int64_t count = std::min(depth, K - k);
        const Matrix left{static_cast<float*>(a.data) + k * a.column, a.dtype, a.rows, count, a.row, a.column};
        const Matrix right{static_cast<float*>(b.data) + k * b.row, b.dtype, count, b.columns, b.row, b.column};
        const bool done = multiply(c, left, right, accumulate || k > 0, k > 0 ? nullptr : bias, exec);
        check(done, "{} has no fp32 product ({}, {}) x ({}, {})", gemm_library(), a.rows, a.columns, b.rows, b.columns);
    }
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    if (a.dtype == DType::kF64)
        return GemmLoops<double>::run(c, a, b, accumulate, static_cast<const double*>(bias), exec);
    if (a.dtype == DType::kF32) return fp32(c, a, b, accumulate, bias, exec);
    if (gemm_bf16_is_fast() && multiply(c, a, b, accumulate, bias, exec)) return;
    gemm_bf16_by_fp32(c, a, b, accumulate, bias, exec, fp32);
}

std::string gemm_library() {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

// From what the CPU is, not from a timing: the answer decides what is computed, and must be the same in every run on a
// machine. oneDNN knows the instruction sets (also what the operating system and ONEDNN_MAX_CPU_ISA allow).
// AMX multiplies bf16 several times faster than fp32. AVX512_BF16 does twice as fast on AMD (measured on Zen 4: 430
// against 215 GFLOP/s on 2 cores), but not on Intel without AMX (measured: 214 against 320).
bool gemm_bf16_is_fast() {
    static const bool fast = [] {
        const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
        const auto has = [isa](dnnl::cpu_isa wanted) { return (isa & unsigned(wanted)) == unsigned(wanted); };
        return has(dnnl::cpu_isa::avx512_core_amx) || (has(dnnl::cpu_isa::avx512_core_bf16) && __builtin_cpu_is("amd"));
    }();
    return fast;
}

}  // namespace plimsoll::cpu
