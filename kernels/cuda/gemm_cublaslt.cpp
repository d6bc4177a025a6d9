#include <cublasLt.h>

#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/gemm.h"

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

using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, DType, DType, bool,
                       Epilogue::Kind, bool, int64_t>;

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
        const Key key{c.rows,
                      c.columns,
                      a.columns,
                      left.leading,
                      right.leading,
                      c.row,
                      left.turned,
                      right.turned,
                      a.dtype,
                      c.dtype,
                      accumulate,
                      epilogue.kind,
                      epilogue.bias != nullptr,
                      epilogue.before.row};
        auto found = plans_.find(key);
        if (found == plans_.end())
            found = plans_.emplace(key, make_plan(c, a, left, right, accumulate, epilogue)).first;
        const Plan& plan = found->second;
        if (!plan.exists) return false;
        set_pointers(plan.operation, epilogue);
        const float one = 1, beta = accumulate ? 1.0f : 0.0f;
        check_blas(cublasLtMatmul(handle_, plan.operation.get(), &one, b.data, plan.left.get(), a.data,
                                  plan.right.get(), &beta, c.data, plan.result.get(), c.data, plan.result.get(),
                                  &plan.algorithm, context.library_workspace(), kWorkspaceBytes, context.stream()),
                   "matmul");
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

    Plan make_plan(Matrix c, Matrix a, const Side& left, const Side& right, bool accumulate, const Epilogue& epilogue) {
        cublasLtMatmulDesc_t made = nullptr;
        check_blas(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
        Plan plan{.operation = Operation(made),
                  .left = layout(a.dtype, left.rows, left.columns, left.leading),
                  .right = layout(a.dtype, right.rows, right.columns, right.leading),
                  .result = layout(c.dtype, c.columns, c.rows, c.row),
                  .algorithm = {},
                  .exists = false};
        set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, left.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
        set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, right.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
        set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, name_of_epilogue(epilogue));
        if (epilogue.before.data) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, epilogue.before.row);
        set_pointers(plan.operation, epilogue);
        cublasLtMatmulPreference_t preference = nullptr;
        check_blas(cublasLtMatmulPreferenceCreate(&preference), "preference");
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                             sizeof kWorkspaceBytes);
        cublasLtMatmulHeuristicResult_t best{};
        int count = 0;
        const cublasStatus_t status =
            cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.get(), plan.left.get(), plan.right.get(),
                                           plan.result.get(), plan.result.get(), preference, 1, &best, &count);
        cublasLtMatmulPreferenceDestroy(preference);
        plan.exists = status == CUBLAS_STATUS_SUCCESS && count > 0;
        const bool optional = epilogue.kind != Epilogue::Kind::kNone && epilogue.kind != Epilogue::Kind::kBias;
        check(plan.exists || optional,
              "cuBLASLt has no algorithm for ({}, {}) = ({}, {}) x ({}, {}), {} to {}, strides {}, {}, {}{}", c.rows,
              c.columns, c.rows, a.columns, a.columns, c.columns, name_of(a.dtype), name_of(c.dtype), c.row,
              right.leading, left.leading, accumulate ? ", added" : "");
        plan.algorithm = best.algo;
        return plan;
    }

    cublasLtHandle_t handle_ = nullptr;
    std::map<Key, Plan> plans_;
};

}  // namespace

bool gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& epilogue, const Exec& exec) {
    static Library library;  // one device per process
    return library.multiply(c, a, b, accumulate, epilogue, *exec.cuda);
}

}  // namespace plimsoll::cuda
