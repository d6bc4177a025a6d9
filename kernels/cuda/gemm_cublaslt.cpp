#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/cuda/gemm.h"
#include "kernels/gemm_choices.h"

namespace plimsoll::cuda {
namespace {

constexpr auto kWorkspaceBytes = static_cast<size_t>(Context::kLibraryWorkspace);

void check_blas(cublasStatus_t status, const char* what) {
    check(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt, {}: {}", what, cublasLtGetStatusString(status));
}

template <class Handle, cublasStatus_t (*kDestroy)(Handle)>
struct Destroy {
    using pointer = Handle;
    void operator()(Handle handle) const { kDestroy(handle); }
};
using Operation = std::unique_ptr<void, Destroy<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<void, Destroy<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>>;

cudaDataType_t type_of(DType dtype) {
    return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// cuBLASLt's matrices are column-major. A row-major matrix is the transpose of a column-major one, so c = a b is asked
// for as c^T = b^T a^T. `turned` says whether the memory of a or b is the transpose of what that wants.
struct Side {
    bool turned;
    int64_t rows, columns, leading;  // of the column-major matrix in memory

    explicit Side(const Matrix& m)
        : turned(m.column != 1),
          rows(turned ? m.rows : m.columns),
          columns(turned ? m.columns : m.rows),
          leading(turned ? m.column : m.row) {}
};

Layout layout(DType dtype, int64_t rows, int64_t columns, int64_t leading) {
    cublasLtMatrixLayout_t made = nullptr;
    check_blas(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), leading),
               "matrix layout");
    return Layout(made);
}

// A product's descriptors and algorithm, found once.
struct Plan {
    Operation operation;
    Layout left, right, result;
    cublasLtMatmulAlgo_t algorithm;
    bool exists;  // whether there is an algorithm
};

// How many of the library's proposals are timed.
constexpr int kCandidates = 16;
// Split sums are folded in fp32 and in a fixed order, through a workspace: not in the output's dtype, and not in place,
// where parts arrive as they come.
constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

static_assert(sizeof(GemmAlgorithm) == sizeof(cublasLtMatmulAlgo_t));

std::string_view name_of_kind(Epilogue::Kind kind) {
    switch (kind) {
        case Epilogue::Kind::kNone:
            return "none";
        case Epilogue::Kind::kBias:
            return "bias";
        case Epilogue::Kind::kGelu:
            return "gelu";
        case Epilogue::Kind::kGeluGradient:
            return "gelu_gradient";
        case Epilogue::Kind::kBiasGradient:
            return "bias_gradient";
    }
    return "";
}

GemmProblem problem_of(const Matrix& c, const Matrix& a, const Side& left, const Side& right, bool accumulate,
                       const Epilogue& epilogue) {
    return {.rows = c.rows,
            .columns = c.columns,
            .inner = a.columns,
            .a_leading = right.leading,
            .b_leading = left.leading,
            .c_leading = c.row,
            .before_leading = epilogue.before.row,
            .a_turned = right.turned,
            .b_turned = left.turned,
            .operands = a.dtype,
            .result = c.dtype,
            .accumulate = accumulate,
            .epilogue = name_of_kind(epilogue.kind),
            .bias = epilogue.bias != nullptr};
}

// The pointers of one call.
struct Call {
    const void *left, *right;
    Matrix result;
    float beta;
    const Context& context;
};

// A result that is added to, kept from what a search does to it. Throws Error (78) if memory does not suffice.
class Kept {
  public:
    Kept(const Matrix& m, bool wanted, const Context& context) : m_(m), stream_(context.stream()) {
        if (!wanted) return;
        memory_ = DeviceMemory(static_cast<int64_t>(width()) * m.rows, "copy of a sum, while products are timed");
        copy(memory_.data(), width(), m_.data, pitch());
    }
    void restore() const {
        if (memory_.data()) copy(m_.data, pitch(), memory_.data(), width());
        check_cuda(cudaStreamSynchronize(stream_), "timing products");
    }

  private:
    size_t width() const { return static_cast<size_t>(m_.columns * size_of(m_.dtype)); }
    size_t pitch() const { return static_cast<size_t>(m_.row * size_of(m_.dtype)); }
    void copy(void* to, size_t to_pitch, const void* from, size_t from_pitch) const {
        check_cuda(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width(), static_cast<size_t>(m_.rows),
                                     cudaMemcpyDeviceToDevice, stream_),
                   "timing products");
    }

    Matrix m_;
    cudaStream_t stream_;
    DeviceMemory memory_;
};

class Stopwatch {
  public:
    explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
        for (cudaEvent_t& event : events_) check_cuda(cudaEventCreate(&event), "cudaEventCreate");
    }
    ~Stopwatch() {
        for (cudaEvent_t event : events_) cudaEventDestroy(event);
    }
    Stopwatch(const Stopwatch&) = delete;
    void mark(size_t which) { check_cuda(cudaEventRecord(events_[which], stream_), "cudaEventRecord"); }
    double seconds() const {
        float milliseconds = 0;
        check_cuda(cudaEventSynchronize(events_[1]), "timing products");
        check_cuda(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]), "cudaEventElapsedTime");
        return 1e-3 * static_cast<double>(milliseconds);
    }

  private:
    cudaStream_t stream_;
    std::array<cudaEvent_t, 2> events_{};
};

bool is_captured(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
}

cublasLtEpilogue_t name_of_epilogue(const Epilogue& e) {
    switch (e.kind) {
        case Epilogue::Kind::kNone:
            return CUBLASLT_EPILOGUE_DEFAULT;
        case Epilogue::Kind::kBias:
            return CUBLASLT_EPILOGUE_BIAS;
        case Epilogue::Kind::kGelu:
            return e.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
        case Epilogue::Kind::kGeluGradient:
            return CUBLASLT_EPILOGUE_DGELU;
        case Epilogue::Kind::kBiasGradient:
            return CUBLASLT_EPILOGUE_BGRADB;  // of b in c^T = b^T a^T's naming: the right side, a
    }
    return CUBLASLT_EPILOGUE_DEFAULT;
}

class Library {
  public:
    Library() { check_blas(cublasLtCreate(&handle_), "start"); }
    ~Library() { cublasLtDestroy(handle_); }
    Library(const Library&) = delete;

    bool multiply(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& epilogue, const Context& context) {
        const Side left(b), right(a);
        const GemmProblem problem = problem_of(c, a, left, right, accumulate, epilogue);
        const Call call{b.data, a.data, c, accumulate ? 1.0f : 0.0f, context};
        std::unique_lock one_at_a_time(mutex_);  // ranks may be threads; a plan holds the call's pointers
        if (!plans_.contains(problem)) {
            // What the stream still waits for may come from a rank that waits for this lock, or for the file's: a
            // search begins with an empty stream, and depends on nobody.
            one_at_a_time.unlock();
            if (context.gemm_choices() && !is_captured(context.stream())) context.synchronize();
            one_at_a_time.lock();
            if (!plans_.contains(problem)) plans_.emplace(problem, make_plan(problem, c, left, right, epilogue, call));
        }
        const Plan& plan = plans_.at(problem);
        if (!plan.exists) return false;
        set_pointers(plan.operation, epilogue);
        check_blas(submit(plan, plan.algorithm, call), "matmul");
        return true;
    }

  private:
    template <class T>
    static void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
        check_blas(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value), "attribute");
    }

    static void set_pointers(const Operation& operation, const Epilogue& e) {
        if (e.bias) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, e.bias);
        if (e.bias_gradient) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, e.bias_gradient);
        if (e.before.data) set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, e.before.data);
    }

    cublasStatus_t submit(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Call& call) const {
        const float one = 1;
        return cublasLtMatmul(handle_, plan.operation.get(), &one, call.left, plan.left.get(), call.right,
                              plan.right.get(), &call.beta, call.result.data, plan.result.get(), call.result.data,
                              plan.result.get(), &algorithm, call.context.library_workspace(), kWorkspaceBytes,
                              call.context.stream());
    }

    Plan make_plan(const GemmProblem& problem, const Matrix& c, const Side& left, const Side& right,
                   const Epilogue& epilogue, const Call& call) {
        cublasLtMatmulDesc_t made = nullptr;
        check_blas(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
        Plan plan{.operation = Operation(made),
                  .left = layout(problem.operands, left.rows, left.columns, left.leading),
                  .right = layout(problem.operands, right.rows, right.columns, right.leading),
                  .result = layout(c.dtype, c.columns, c.rows, c.row),
                  .algorithm = {},
                  .exists = false};
        set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, left.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
        set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, right.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
        set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, name_of_epilogue(epilogue));
        if (epilogue.before.data) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, epilogue.before.row);
        set_pointers(plan.operation, epilogue);
        const std::vector<GemmAlgorithm> proposed = proposals(plan);
        plan.exists = !proposed.empty();
        const bool optional = epilogue.kind != Epilogue::Kind::kNone && epilogue.kind != Epilogue::Kind::kBias;
        check(plan.exists || optional, "cuBLASLt has no algorithm for {} (rows x columns x inner, ...)",
              problem.text());
        if (plan.exists) plan.algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(chosen(plan, proposed, problem, call));
        return plan;
    }

    // The library's proposals, the one it thinks fastest first.
    std::vector<GemmAlgorithm> proposals(const Plan& plan) const {
        cublasLtMatmulPreference_t preference = nullptr;
        check_blas(cublasLtMatmulPreferenceCreate(&preference), "preference");
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                             sizeof kWorkspaceBytes);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &kReductions,
                                             sizeof kReductions);
        std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
        int count = 0;
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
            handle_, plan.operation.get(), plan.left.get(), plan.right.get(), plan.result.get(), plan.result.get(),
            preference, kCandidates, results.data(), &count);
        cublasLtMatmulPreferenceDestroy(preference);
        std::vector<GemmAlgorithm> algorithms;
        if (status != CUBLAS_STATUS_SUCCESS) count = 0;
        for (int i = 0; i < count; ++i)
            if (const auto& result = results[static_cast<size_t>(i)]; result.state == CUBLAS_STATUS_SUCCESS)
                algorithms.push_back(std::bit_cast<GemmAlgorithm>(result.algo));
        return algorithms;
    }

    // Whether this library, on this device, can compute the product so, and sums in a fixed order.
    bool usable(const Plan& plan, const GemmAlgorithm& algorithm) const {
        const auto raw = std::bit_cast<cublasLtMatmulAlgo_t>(algorithm);
        cublasLtMatmulHeuristicResult_t result{};
        uint32_t scheme = 0;
        size_t written = 0;
        return cublasLtMatmulAlgoCheck(handle_, plan.operation.get(), plan.left.get(), plan.right.get(),
                                       plan.result.get(), plan.result.get(), &raw, &result) == CUBLAS_STATUS_SUCCESS &&
               result.workspaceSize <= kWorkspaceBytes &&
               cublasLtMatmulAlgoConfigGetAttribute(&raw, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                                                    &written) == CUBLAS_STATUS_SUCCESS &&
               (scheme & ~kReductions) == 0;
    }

    // A result that is written is timed in place: the product's own call follows.
    std::vector<TimedAlgorithm> timed(const Plan& plan, const std::vector<GemmAlgorithm>& proposed,
                                      const Call& call) const {
        const Kept kept(call.result, call.beta != 0, call.context);
        Stopwatch watch(call.context.stream());
        std::vector<TimedAlgorithm> times =
            time_candidates(proposed, [&](size_t i, int calls) -> std::optional<double> {
                const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(proposed[i]);
                watch.mark(0);
                for (int n = 0; n < calls; ++n)
                    if (submit(plan, algorithm, call) != CUBLAS_STATUS_SUCCESS) return {};
                watch.mark(1);
                return watch.seconds() / calls;
            });
        kept.restore();
        return times;
    }

    GemmAlgorithm chosen(const Plan& plan, const std::vector<GemmAlgorithm>& proposed, const GemmProblem& problem,
                         const Call& call) const {
        GemmChoices* choices = call.context.gemm_choices();
        if (!choices) return proposed.front();
        std::function<std::vector<TimedAlgorithm>()> measure;
        if (!is_captured(call.context.stream())) measure = [&] { return timed(plan, proposed, call); };
        const auto known = choices->choose(
            problem.text(), [&](const GemmAlgorithm& algorithm) { return usable(plan, algorithm); }, measure);
        return known.value_or(proposed.front());
    }

    std::mutex mutex_;
    cublasLtHandle_t handle_ = nullptr;
    std::map<GemmProblem, Plan> plans_;
};

}  // namespace

std::string gemm_library() {
    return fmt::format("cuBLASLt {}", cublasLtGetVersion());
}

bool gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& epilogue, const Exec& exec) {
    static Library library;  // one device per process
    return library.multiply(c, a, b, accumulate, epilogue, *exec.cuda);
}

}  // namespace plimsoll::cuda
