// CUDA graphs.
#include "kernels/replay.h"

#include "kernels/dispatch.h"
#ifdef PLIMSOLL_CUDA
#include "kernels/cuda/context.h"
#endif

namespace plimsoll {

#ifdef PLIMSOLL_CUDA

struct Replay::Graph {
    cudaGraphExec_t executable = nullptr;

    Graph(cudaStream_t stream, const std::function<void()>& work) {
        cuda::check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
        cudaGraph_t recorded = nullptr;
        try {
            work();
        } catch (...) {
            cudaStreamEndCapture(stream, &recorded);  // or the stream stays in capture
            if (recorded) cudaGraphDestroy(recorded);
            cudaGetLastError();
            throw;
        }
        cuda::check_cuda(cudaStreamEndCapture(stream, &recorded), "cudaStreamEndCapture");
        const cudaError_t error = cudaGraphInstantiate(&executable, recorded, 0);
        cudaGraphDestroy(recorded);
        cuda::check_cuda(error, "cudaGraphInstantiate");
    }
    ~Graph() { cudaGraphExecDestroy(executable); }
    Graph(const Graph&) = delete;
};

void Replay::run(const Exec& exec, const std::function<void()>& work) {
    const bool wanted = exec.device == Device::kCuda && !exec.tracer;
    if (wanted && warm_ && !graph_ && why_not_.empty()) {
        try {
            graph_ = std::make_unique<Graph>(exec.cuda->stream(), work);
        } catch (const Error& error) {
            why_not_ = error.what();  // nothing was submitted; what is wrong with the work itself, it says again below
        }
    }
    if (!wanted || !graph_) {
        work();
        warm_ = true;
        return;
    }
    const TraceRange range(exec, "graph");
    cuda::check_cuda(cudaGraphLaunch(graph_->executable, exec.cuda->stream()), "cudaGraphLaunch");
}

#else

struct Replay::Graph {};

void Replay::run(const Exec& /*exec*/, const std::function<void()>& work) {
    work();
}

#endif

Replay::Replay() = default;
Replay::~Replay() = default;
Replay::Replay(Replay&&) noexcept = default;

}  // namespace plimsoll
