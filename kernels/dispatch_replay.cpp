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
    if (exec.device != Device::kCuda || exec.tracer || !warm_) {
        work();
        warm_ = true;
        return;
    }
    if (!graph_) graph_ = std::make_unique<Graph>(exec.cuda->stream(), work);
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
