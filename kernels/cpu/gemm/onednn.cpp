// By oneDNN's matmul primitive. Primitives are made once per shape and kept.
#include <cpuid.h>
#include <omp.h>

#include <array>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/cpu/gemm/fallback.h"

namespace plimsoll::cpu {
namespace {

// Everything a primitive is made for.
using Key = std::array<int64_t, 13>;

struct Primitive {
    dnnl::matmul matmul;
    dnnl::memory::desc a, b, bias, c, scratchpad;
};

dnnl::memory::data_type data_type(DType dtype) {
    return dtype == DType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc describe(const Matrix& m) {
    return {{m.rows, m.columns}, data_type(m.dtype), dnnl::memory::dims{m.row, m.column}};
}

dnnl::engine& engine() {
    static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

dnnl::matmul::primitive_desc primitive_desc(const Matrix& c, const Matrix& a, const Matrix& b, const dnnl::memory::desc& bias,
                                            const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
    return {engine(), describe(a), describe(b), bias, describe(c), attributes};
#else
    return {dnnl::matmul::desc(describe(a), describe(b), bias, describe(c)), attributes, engine()};
#endif
}

Primitive make(const Matrix& c, const Matrix& a, const Matrix& b, bool accumulate, bool has_bias) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
        dnnl::post_ops sum;
        sum.append_sum(1.0f);
        attributes.set_post_ops(sum);
    }
    const dnnl::memory::desc bias = has_bias ? dnnl::memory::desc({1, c.columns}, dnnl::memory::data_type::f32,
                                                                  dnnl::memory::dims{c.columns, 1})
                                             : dnnl::memory::desc();
    const dnnl::matmul::primitive_desc pd = primitive_desc(c, a, b, bias, attributes);
    return {dnnl::matmul(pd), describe(a), describe(b), bias, describe(c), pd.scratchpad_desc()};
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

void run(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    const OmpThreads threads(exec.threads);
    thread_local std::map<Key, std::unique_ptr<Primitive>> primitives;
    thread_local dnnl::stream stream(engine());
    const Key key{c.rows, c.columns, a.columns, a.row, a.column, b.row, b.column, c.row, static_cast<int64_t>(a.dtype),
                  static_cast<int64_t>(c.dtype), accumulate, bias != nullptr, exec.threads};
    try {
        std::unique_ptr<Primitive>& p = primitives[key];
        if (!p) p = std::make_unique<Primitive>(make(c, a, b, accumulate, bias != nullptr));
        const auto memory = [](const dnnl::memory::desc& desc, const void* data) {
            return dnnl::memory(desc, engine(), const_cast<void*>(data));
        };
        std::unordered_map<int, dnnl::memory> arguments{
            {DNNL_ARG_SRC, memory(p->a, a.data)}, {DNNL_ARG_WEIGHTS, memory(p->b, b.data)}, {DNNL_ARG_DST, memory(p->c, c.data)},
            {DNNL_ARG_SCRATCHPAD,
             memory(p->scratchpad, workspace<struct Scratchpad, char>(static_cast<int64_t>(p->scratchpad.get_size()) + 64))}};
        if (bias) arguments.emplace(DNNL_ARG_BIAS, memory(p->bias, bias));
        p->matmul.execute(stream, arguments);
        stream.wait();
    } catch (const dnnl::error& error) {
        check(false, "oneDNN: ({}, {}) x ({}, {}) in {}: {}", a.rows, a.columns, b.rows, b.columns, name_of(a.dtype), error.what());
    }
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    if (a.dtype == DType::kF64) return gemm_loops<double>(c, a, b, accumulate, static_cast<const double*>(bias), exec);
    if (a.dtype == DType::kBF16 && !gemm_bf16_is_fast()) return gemm_bf16_by_fp32(c, a, b, accumulate, bias, exec, run);
    run(c, a, b, accumulate, bias, exec);
}

std::string gemm_library() {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

// From CPUID, not from a timing: the answer decides what is computed, and must be the same in every run on a machine.
// AMX multiplies bf16 several times faster than fp32. AVX512_BF16 does twice as fast on AMD (measured on Zen 4: 430
// against 215 GFLOP/s on 2 cores), but not on Intel without AMX (measured: 214 against 320).
bool gemm_bf16_is_fast() {
    static const bool fast = [] {
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
        if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
        const bool amx_bf16 = edx & (1u << 22), avx512f = ebx & (1u << 16);
        bool avx512_bf16 = false;
        if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) avx512_bf16 = avx512f && (eax & (1u << 5));
        __get_cpuid(0, &eax, &ebx, &ecx, &edx);
        return amx_bf16 || (avx512_bf16 && ebx == signature_AMD_ebx);
    }();
    return fast;
}

}  // namespace plimsoll::cpu
